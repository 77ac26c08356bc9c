"""The ``vqlab`` command. Help and unknown commands are answered before torch is imported."""

import importlib
import os
import re
import sys
import time
from collections.abc import Sequence

from vqlab import __version__
from vqlab.cli.arguments import with_builtin_configs
from vqlab.errors import UserError, suggest
from vqlab.training.stop_signals import STOP_SIGNALS, Stopped

HELP = """\
vqlab: discrete-representation and adversarial models in PyTorch Lightning

usage:
  vqlab fit      --config configs/quickstart.yaml           train, in runs/<model>/<time or --name>/
  vqlab fit      --ckpt_path runs/.../last.ckpt             resume a run
  vqlab validate --ckpt_path runs/.../best.ckpt             metrics on the validation set
  vqlab test     --ckpt_path runs/.../best.ckpt             metrics on the test set
  vqlab predict  --ckpt_path runs/.../best.ckpt             codes of the test set, or of all new data, as codes.npz
  vqlab predict  --ckpt_path ... --font new.ttf             for a FontGAN: sheets, and the completed font
  vqlab sample   runs/.../best.ckpt --num 64                draw images from a generative model, as samples.png
  vqlab sample   runs/.../best.ckpt --num 10000 --metrics   and evaluate them beside test images, as samples.json
  vqlab encode   runs/.../best.ckpt 100.hea                 compress a signal with an S4DVQ, as encoded/100.vqs
  vqlab encode   runs/.../best.ckpt images.npz a.png        compress images with a CodePrior or a tokenizer, as .vqi
  vqlab decode   runs/.../best.ckpt encoded/100.vqs         and back, as decoded/100.npz
  vqlab info     runs/.../best.ckpt                         facts: model, data, settings, metrics, code version
  vqlab rate-distortion runs/.../best.ckpt -o curves        SNR or PSNR over bits, beside classical coders
  vqlab sweep    configs/experiments/jsa_cifar10.yaml       run a table of settings; the same command resumes it
  vqlab note     runs/... "what came out"                   keep a note in a run folder; shown by info and report
  vqlab report   runs                                       the lab log: settings, metrics, health of all runs

often used with fit:
  --model VQVAE --data CIFAR10          names of classes, then options of them:
  --model.quantizer=FSQ --model.quantizer.levels=[8,5,5,5]
  --model.lr=3e-4 --data.batch_size=128 --trainer.max_steps=3000 --trainer.devices=2
  --model.tokenizer=runs/vqvae/.../best.ckpt   with configs/prior.yaml: a model of the codes, which draws images
  --name first                          name of the run folder
  --print_config                        show the complete configuration and stop

vqlab fit --help                        all options; vqlab sample, encode, info, note, sweep, ... --help likewise
vqlab fit --model.help VQVAE            options of a model; --data.help likewise
vqlab fit --model VQVAE --model.quantizer.help FSQ          options of a part
VQLAB_DEBUG=1 vqlab ...                 show the traceback of an error
"""
# Each is a function in the module of that name.
OWN = ("sample", "encode", "decode", "info", "note", "rate-distortion", "sweep", "report")
LIGHTNING = ("fit", "validate", "test", "predict")


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a UserError ends it with one line and status 2, SIGINT and SIGTERM with 130 and 143."""
    try:
        with STOP_SIGNALS.installed():
            run_command(with_builtin_configs(sys.argv[1:] if args is None else args))
    except SystemExit:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            time.sleep(3)  # rank 0 must end first: its launcher kills it if another rank ends earlier
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
            name = command.replace("-", "_")
            getattr(importlib.import_module(f"vqlab.cli.{name}"), name)(args[1:])
        elif command in LIGHTNING:
            from vqlab.cli.lightning import run

            run(args)
        else:
            raise UserError(f"unknown command {command!r}: {suggest(command, (*LIGHTNING, *OWN))} See vqlab --help")
    except BrokenPipeError:  # the reader, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if os.environ.get("VQLAB_DEBUG"):
            raise
        if isinstance(error, UserError):
            line = error.line
        elif isinstance(error, MemoryError) or re.search("allocate memory|out of memory", str(error)):
            line = "out of memory: lower --data.batch_size, or the sizes of the networks under --model"
        elif STOP_SIGNALS.asked:  # the same signal has ended a DataLoader worker, for example
            raise Stopped(STOP_SIGNALS.asked) from None
        else:
            raise
        print(f"vqlab: error: {line}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
