"""The ``vqlab`` command. Help and mistakes are answered here, before torch is imported."""

import difflib
import importlib
import os
import re
import sys
import time
from collections.abc import Sequence

from vqlab import __version__
from vqlab.cli.config_files import with_builtin_configs
from vqlab.errors import UserError
from vqlab.training.stop_signals import STOP_SIGNALS, Stopped

HELP = """\
vqlab: discrete-representation and adversarial models in PyTorch Lightning

usage:
  vqlab fit      --config configs/quickstart.yaml           train; the run lands in runs/<model>/<time or --name>/
  vqlab fit      --ckpt_path runs/.../last.ckpt             resume a run where it stopped
  vqlab validate --ckpt_path runs/.../best.ckpt             metrics on the validation set
  vqlab test     --ckpt_path runs/.../best.ckpt             metrics on the test set
  vqlab predict  --ckpt_path runs/.../best.ckpt             codes of the test set, or of all of new data, as codes.npz
  vqlab predict  --ckpt_path ... --font new.ttf             of a FontGAN: sheets, and the completed font
  vqlab sample   runs/.../best.ckpt --num 64                draw images from a generative model, as samples.png
  vqlab info     runs/.../best.ckpt                         what it is: model, data, settings, metrics, code
  vqlab sweep    configs/experiments/jsa_cifar10.yaml       a table of runs, one row each; started again, it goes on
  vqlab report   runs                                       the lab log: what differed, what came out, what went wrong

often used with fit:
  --model VQVAE --data CIFAR10          short names of classes; any option of theirs follows, as in
  --model.quantizer=FSQ --model.quantizer.levels=[8,5,5,5]
  --model.lr=3e-4 --data.batch_size=128 --trainer.max_steps=3000 --trainer.devices=2
  --name first                          name of the run's folder
  --print_config                        show the complete configuration and stop

second stage, a model of a trained tokenizer's codes from which images are drawn:
  vqlab fit --config configs/prior.yaml --model.tokenizer=runs/vqvae/.../best.ckpt

vqlab fit --help                        all options; vqlab sample, info, sweep, report --help likewise
vqlab fit --model.help VQVAE            options of a model; --data.help, --model.quantizer.help likewise
VQLAB_DEBUG=1 vqlab ...                 show the traceback of an error
"""
OWN = {  # commands that are no LightningCLI's, each imported when it is called
    "sample": "vqlab.cli.sample:sample",
    "info": "vqlab.cli.info:info",
    "sweep": "vqlab.cli.sweep:sweep",
    "report": "vqlab.cli.report:report",
}
LIGHTNING = ("fit", "validate", "test", "predict")


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; exits with status 2 and one line where the user can correct something.

    SIGINT and SIGTERM end it with status 130 and 143.
    """
    try:
        with STOP_SIGNALS.installed():
            run_command(with_builtin_configs(sys.argv[1:] if args is None else args))
    except SystemExit:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            time.sleep(3)  # rank 0 must end first: its launcher kills it if another rank ends before
        raise


def run_command(args: list[str]) -> None:
    """Run the command line, under the signal handlers of :func:`main`."""
    command = args[0] if args else "--help"
    try:
        if command in ("-h", "--help", "help"):
            print(HELP, end="")
        elif command in ("-V", "--version", "version"):
            print(f"vqlab {__version__}")
        elif command in OWN:
            module, name = OWN[command].split(":")
            getattr(importlib.import_module(module), name)(args[1:])
        elif command in LIGHTNING:
            from vqlab.cli.lightning import run

            run(args)
        else:
            close = difflib.get_close_matches(command, (*LIGHTNING, *OWN), n=1)
            hint = f"did you mean {close[0]}?" if close else f"one of {', '.join((*LIGHTNING, *OWN))}"
            raise UserError(f"unknown command {command!r}: {hint} See vqlab --help")
    except BrokenPipeError:  # the reader, head for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if os.environ.get("VQLAB_DEBUG"):
            raise
        if isinstance(error, UserError):
            line = error.line
        elif isinstance(error, MemoryError) or re.search("allocate memory|out of memory", str(error)):
            line = "out of memory: lower --data.batch_size, or the sizes of the networks under --model"
        elif STOP_SIGNALS.asked:  # such as a worker of a DataLoader that the same signal ended
            raise Stopped(STOP_SIGNALS.asked) from None
        else:
            raise
        print(f"vqlab: error: {line}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
