"""Two nodes, each started by a torchrun of its own, train what two devices of one node train."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.e2e.tiny import FIT, ROOT, STOPS, assert_equal, assert_same_runs, fit_on_two_ranks
from tests.helpers import warm_vqlab
from vqlab.cli.main import main

NODES = ["--trainer.num_nodes=2", "--trainer.devices=1"]
# A small rate: at a large one, rounding alone drives runs apart tenfold every few steps.
STEPS = ["--trainer.val_check_interval=5", "--trainer.check_val_every_n_epoch=null", "--model.lr=0.0005"]
STATIC = ["--master_addr=127.0.0.1", "--master_port={port}", "--node_rank={node}"]
C10D = ["--rdzv_backend=c10d", "--rdzv_endpoint=127.0.0.1:{port}", "--rdzv_id=vqlab", "--local_addr=127.0.0.1"]


def torchrun(rendezvous, *program, **environ):
    """Start ``program`` on two nodes, which are this machine twice; return (status, output) of both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **environ}
    nodes = []
    for node in (0, 1):
        meet = [option.format(port=port, node=node) for option in rendezvous]
        call = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", *meet, *program]
        nodes.append(subprocess.Popen(call, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    outputs = [node.communicate(timeout=240)[0] for node in nodes]
    return [(node.returncode, output) for node, output in zip(nodes, outputs, strict=True)]


def test_two_nodes_equal_two_devices():
    half = [*NODES, *STEPS, "--data.batch_size=16", "--trainer.max_steps=10", f"--trainer.callbacks+={STOPS}.SaveAll"]
    for status, output in torchrun(STATIC, "-m", "vqlab", *FIT, *half, PYTHONPATH=str(ROOT)):
        assert status == 0, output
    (nodes,) = Path("runs/vqvae").iterdir()  # named by the time, and yet the nodes have but one
    assert_equal(*(torch.load(f"rank_{rank}.pt", weights_only=True) for rank in (0, 1)))
    fit_on_two_ranks(*FIT, *STEPS, "--trainer.max_steps=10", "--data.batch_size=16", "--name=two")
    assert_same_runs(nodes, nodes.with_name("two"))
    best = f"--ckpt_path={nodes}/checkpoints/best.ckpt"
    main(["test", f"--config={nodes}/config.yaml", best, "--trainer.num_nodes=1", "--trainer.callbacks=null"])


@pytest.mark.slow
def test_two_nodes_that_meet_by_c10d_go_on():
    fit_on_two_ranks(*FIT, *STEPS, "--trainer.max_steps=10", "--data.batch_size=16", "--name=nodes")
    shutil.copytree("runs/vqvae/nodes", "runs/vqvae/two")
    resume = ["fit", "--ckpt_path=runs/vqvae/{}/checkpoints/last.ckpt", "--trainer.max_steps=20"]
    trust, ours = "--config=runs/vqvae/{}/config.yaml", [option.format("nodes") for option in resume]
    with warm_vqlab.serve() as vqlab:
        call = [*ours, trust.format("nodes"), *NODES, "--trainer.callbacks=null"]
        for status, output in torchrun(C10D, "--no-python", *vqlab, *call):
            assert status == 0, output
    fit_on_two_ranks(*(option.format("two") for option in [*resume, trust]))
    assert_same_runs("runs/vqvae/nodes", "runs/vqvae/two")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--model.quantizer.num_embeddings=-3"], "--model.quantizer.num_embeddings must be at least 1, got -3"),
        ([f"--trainer.callbacks+={STOPS}.RefuseOnRank1", "--trainer.max_steps=1000"], "a file is damaged"),
    ],
)
def test_what_a_node_refuses_ends_both(options, line):
    with warm_vqlab.serve() as vqlab:
        (first, output), (second, other) = torchrun(STATIC, "--no-python", *vqlab, *FIT, *NODES, *options)
    assert first != 0, output
    assert second != 0
    assert other.count(f"vqlab: error: {line}") == 1
