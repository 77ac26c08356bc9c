"""Lays out a W&B workspace for vqlab's runs: pictures first, then quality, codes and training, then all other figures.

    pip install wandb-workspaces && wandb login
    python -m vqlab.cli.wandb_workspace --project vqlab

Each call adds a saved view to the project; no run and no other view is touched.
"""

from collections.abc import Sequence
from typing import Any

from vqlab.cli.parser import Parser, as_script
from vqlab.errors import UserError

STEP = "trainer/global_step"
PICTURES = ("samples/step", "samples/codes", "samples/confusion", "samples/topics")
# Section -> what its plots show, each a regular expression; a plot of what no run logs stays empty.
SECTIONS = {
    "Quality": ("^val/loss$", "^val/psnr", "^val/ssim", "^val/rfid", "^val/nll", "^val/npmi"),
    "Codes": ("^val/perplexity$", "^val/codebook_usage$", "^train/revived_codes$"),
    "Training": ("^train/.*loss$", "^lr/", "^grad_norm/", "^train/samples_per_second$"),
}


def layout(entity: str, project: str, name: str) -> Any:
    """Return the workspace, not yet saved.

    Raises:
        UserError: If the library is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as workspaces
    except ImportError:
        raise UserError("a workspace needs W&B's library for it: pip install wandb-workspaces") from None
    pictures = [panels.MediaBrowser(title=key.partition("/")[2], media_keys=[key]) for key in PICTURES]
    sections = [workspaces.Section(name="Pictures", panels=pictures, is_open=True)]
    for title, patterns in SECTIONS.items():
        plots = [panels.LinePlot(title=p.strip("^$"), x=STEP, metric_regex=p) for p in patterns]
        sections.append(workspaces.Section(name=title, panels=plots, is_open=True))
    settings = workspaces.WorkspaceSettings(x_axis=STEP)
    return workspaces.Workspace(
        entity=entity, project=project, name=name, sections=sections, settings=settings, auto_generate_panels=True
    )


def create(args: Sequence[str]) -> None:
    """Save the workspace under the account whose key is configured.

    Raises:
        UserError: If library or key is missing, or W&B refuses.
    """
    parser = Parser(prog="python -m vqlab.cli.wandb_workspace", description="Lay out a W&B workspace for vqlab's runs.")
    parser.add_argument("--project", default="vqlab", help="as in --wandb.project (default vqlab)")
    parser.add_argument("--entity", help="user or team (default: that of the key)")
    parser.add_argument("--name", default="vqlab", help="name of the view (default vqlab)")
    options = parser.parse_args(args)
    layout("", options.project, options.name)  # whether the library is there is known at once, the key's owner is not

    import wandb

    from vqlab.training.loggers.wandb import has_key

    if not has_key():
        raise UserError("there is no W&B key: run wandb login, or set WANDB_API_KEY")
    try:
        entity = options.entity or wandb.Api().default_entity or ""  # W&B says what it thinks of none
        saved = layout(entity, options.project, options.name).save()
    except Exception as error:  # wandb raises several unrelated types
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"W&B did not take the workspace ({reason}): check --entity, --project and the key") from error
    print(saved.url)


if __name__ == "__main__":
    as_script(create)
