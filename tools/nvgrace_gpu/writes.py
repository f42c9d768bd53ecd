# SPDX-License-Identifier: GPL-2.0-only
"""Writes to sysfs that last: each in a child, of several GPUs at once, until a signal comes."""

import collections
import contextlib
import errno
import os
import signal
import sys
import time

from .gpu import CXL_TRAINING
from .host import Refused, Unknown

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# A write: to which file, what, the words for it, and the seconds after which it is given up, or
# None. A signal does not end an undo, which puts back what was there before.
Step = collections.namedtuple("Step", "name text what limit undo")


class Interrupted(Exception):
    """A signal came."""


class Stuck(OSError):
    """The write goes on in the kernel, and not even SIGKILL ends it."""


class Signals:
    """Within its block signals are only noted."""

    def __enter__(self):
        self.number = None
        self.before = {number: signal.signal(number, self.note) for number in SIGNALS}
        return self

    def note(self, number, _):
        self.number = self.number or number

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)


class Child:
    """A process that does one write."""

    def __init__(self, host, step):
        self.step, self.start = step, time.monotonic()
        # Ctrl-C is for all processes of the terminal, and the parent decides what it ends.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self.pid = os.fork()
        if not self.pid:
            code = errno.EIO
            try:
                host.write(step.name, step.text)
                code = 0
            except OSError as e:
                code = e.errno or errno.EIO
            finally:
                os._exit(code)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def seconds(self):
        return time.monotonic() - self.start

    def done(self):
        """Has it ended? Raises the error of the write."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid and self.step.limit is not None and self.seconds() >= self.step.limit:
            self.kill()
            self.end()
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), self.step.name)
        if not pid:
            return False
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else errno.EINTR
        if code:
            raise OSError(code, os.strerror(code), self.step.name)
        return True

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def end(self):
        """Wait until a child that was killed has ended.

        The kernel may probe in a worker, which the signal does not reach; that ends by itself.
        """
        limit = time.monotonic() + (CXL_TRAINING + 5 if self.step.name.endswith("/bind") else 2)
        while not os.waitpid(self.pid, os.WNOHANG)[0]:
            if time.monotonic() >= limit:
                raise Stuck(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), self.step.name)
            time.sleep(0.05)


class Writer:
    """Writes, or with dry_run prints what it would write."""

    def __init__(self, host, dry_run):
        self.host, self.dry_run = host, dry_run
        self.shown = 0

    def together(self, jobs, signals):
        """Run jobs, {gpu: generator of Steps}, at once; returns {gpu: what its job raised}."""
        running, failed = {}, {}

        def resume(gpu, function, *args):
            """Run the job of a GPU up to its next step."""
            running.pop(gpu, None)
            try:
                step = function(*args)
                while self.dry_run:
                    # An empty line takes an override away; plain echo writes that.
                    print("echo %s> %s" % (step.text.strip() and step.text.strip() + " ",
                                           step.name))
                    step = next(jobs[gpu])
                running[gpu] = Child(self.host, step)
            except StopIteration:
                pass
            except (Refused, Interrupted, Unknown, OSError) as e:
                failed[gpu] = e

        def interrupt():
            ended = {gpu: child for gpu, child in running.items() if not child.step.undo}
            for child in ended.values():
                child.kill()
            for gpu, child in ended.items():
                error = Interrupted()
                try:
                    child.end()
                except Stuck as e:
                    error = e
                resume(gpu, jobs[gpu].throw, error)

        for gpu, job in jobs.items():
            resume(gpu, next, job)
        told, pause = False, 0.001
        while running:
            if signals.number and not told:
                told = True
                interrupt()
            for gpu, child in list(running.items()):
                try:
                    if child.done():
                        pause = 0.001
                        resume(gpu, next, jobs[gpu])
                except OSError as e:
                    resume(gpu, jobs[gpu].throw, e)
            self.count(running)
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        return failed

    def count(self, running):
        """Each second, say what lasts."""
        terminal = sys.stderr.isatty()
        if not running and self.shown and terminal:
            print("\r\033[K", file=sys.stderr, end="", flush=True)
        lasting = {}
        for gpu, child in running.items():
            if child.seconds() >= 1:
                lasting.setdefault(child.step.what, []).append((gpu, child.seconds()))
        if not lasting or time.monotonic() - self.shown < 1:
            return
        self.shown = time.monotonic()
        for what, children in lasting.items():
            print("%s: %s" % (", ".join(str(gpu) for gpu, _ in children),
                              what % max(seconds for _, seconds in children)),
                  file=sys.stderr, end="\r" if terminal else "\n", flush=True)

    def run(self, *command):
        if self.dry_run:
            print(" ".join(command))
        else:
            self.host.run(*command)

    def save(self, name, text):
        if self.dry_run:
            print("mkdir -p %s && cat > %s << 'END'\n%sEND" %
                  (os.path.dirname(name), name, text))
        else:
            self.host.save(name, text)

    def remove(self, name):
        if self.dry_run:
            if self.host.exists(name):
                print("rm " + name)
        else:
            self.host.remove(name)
