"""Running an example as a person does: in a process of its own, with every warning an error."""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# whoever runs the tests in the background may have switched off Ctrl-C for all that they start
RUN = "import os, runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
# a script finds its neighbours, as where Python starts it itself
RUN += "sys.argv = sys.argv[1:]; sys.path.insert(0, os.path.dirname(sys.argv[0])); "
RUN += "runpy.run_path(sys.argv[0], run_name='__main__')"


def start(script, *options):
    command = [sys.executable, "-W", "error", "-c", RUN, str(ROOT / "examples" / script), *map(str, options)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "MPLBACKEND": "Agg"}
    # whoever reads some of the output and then the rest may cut a letter of a progress bar in two
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    return subprocess.Popen(command, env=environment, **streams)


def interrupt(process, when):
    """Press Ctrl-C once ``when`` has been printed. Returns all output, of status 130 and without a traceback."""
    seen = ""
    while when not in seen:
        came = process.stdout.read(1)
        assert came, seen
        seen += came
    process.send_signal(signal.SIGINT)
    output = seen + process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert "Traceback" not in output, output
    return output


def run_on_two(script, *options):
    """On two processes of torchrun's."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [ROOT / "examples" / script, *options, "--devices=2", "--strategy=ddp"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(script, *options):
    process = start(script, *options)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output
