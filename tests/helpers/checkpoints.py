"""A checkpoint as torch writes it, without a run."""

import torch


def write_checkpoint(path, step, **more):
    """Write weights, the state of Adam after one step, and ``more`` into ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    adam = torch.optim.Adam(net.parameters())
    net(torch.randn(4, 3)).sum().backward()
    adam.step()
    state = {"state_dict": net.state_dict(), "optimizer_states": [adam.state_dict()], "rng": torch.get_rng_state()}
    torch.save({"epoch": 0, "global_step": step, **state, **more}, path)
