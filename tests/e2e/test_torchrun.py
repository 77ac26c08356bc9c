"""Two nodes, each started by a torchrun of its own, train what two devices of one node and what one process train."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.e2e.tiny import FIT, SAVE_ALL, assert_same_runs, command, fit, logged
from tests.helpers import warm_vqlab
from vqlab.cli.main import main

REFUSES = """
import lightning, vqlab.errors

class RefuseOnNode1(lightning.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_rank == 1 and batch_idx == 3:
            raise vqlab.errors.UserError("a file is damaged: mend it")
"""
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


def test_two_nodes_equal_two_devices_and_one_process(tmp_path, monkeypatch):
    (tmp_path / "save_all.py").write_text(SAVE_ALL)
    monkeypatch.syspath_prepend(tmp_path)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    half = [*NODES, *STEPS, "--data.batch_size=16", "--trainer.max_steps=10", "--trainer.callbacks+=save_all.SaveAll"]
    for status, output in torchrun(STATIC, "-m", "vqlab", *FIT, *half, PYTHONPATH=path):
        assert status == 0, output
    (nodes,) = Path("runs/vqvae").iterdir()  # named by the time, and yet the nodes have but one

    whole = [*STEPS, "--trainer.max_steps=20"]
    with warm_vqlab.serve() as vqlab:
        last = f"--ckpt_path={nodes}/checkpoints/last.ckpt"
        resume = ["fit", f"--config={nodes}/config.yaml", last, "--trainer.max_steps=20"]
        for status, output in torchrun(C10D, "--no-python", *vqlab, *resume):
            assert status == 0, output
    first, second = (torch.load(f"rank_{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    two = command(*FIT, *whole, "--trainer.devices=2", "--data.batch_size=16", "--name=two")
    output, _ = two.communicate(timeout=240)
    assert two.returncode == 0, output
    assert_same_runs(nodes, nodes.with_name("two"))

    fit(*whole, "--data.batch_size=32", "--name=one")
    ours, theirs = (logged(folder / "metrics.csv") for folder in (nodes, nodes.with_name("one")))
    for row, expected in zip(ours, theirs, strict=True):
        for name in ("val/loss", "val/rec_loss", "val/psnr"):
            assert row[name] == pytest.approx(expected[name], rel=1e-4), name
    best = f"--ckpt_path={nodes}/checkpoints/best.ckpt"
    main(["test", f"--config={nodes}/config.yaml", best, "--trainer.num_nodes=1", "--trainer.callbacks=null"])


def test_a_mistake_is_told_on_each_node_and_ends_both():
    with warm_vqlab.serve() as vqlab:
        nodes = torchrun(STATIC, "--no-python", *vqlab, *FIT, *NODES, "--model.quantizer.num_embeddings=-3")
    for status, output in nodes:
        assert status != 0
        assert output.count("vqlab: error: num_embeddings must be at least 1, got -3") == 1
    assert not Path("runs").exists()


def test_what_one_node_refuses_ends_both(tmp_path, monkeypatch):
    (tmp_path / "refuses.py").write_text(REFUSES)
    monkeypatch.syspath_prepend(tmp_path)
    with warm_vqlab.serve() as vqlab:
        call = [*FIT, *NODES, "--name=run", "--trainer.callbacks+=refuses.RefuseOnNode1", "--trainer.max_steps=1000"]
        (first, output), (second, complaint) = torchrun(STATIC, "--no-python", *vqlab, *call)
    assert first != 0, output
    assert second != 0
    assert complaint.count("vqlab: error: a file is damaged: mend it") == 1
