"""Plays the scripts of simulate_tasks.c on Python's own asyncio (3.13 or newer), and compares the traces.

    simulate_tasks --oracle FIRST COUNT | python3.13 oracle_tasks.py

The model of simulate_tasks.c says what the library has to do; this says whether the model is asyncio. In these
scripts no two times are the same, so that what happens in an iteration more or less does not matter: each task has
to see the same results at the same times.

The library's combinators are futures, so wait_for may take an iteration more than asyncio's coroutine does, wait is
over at once if it can be, and a task group whose exit is cancelled cancels its tasks at once instead of an
iteration later. Some scripts depend on such an iteration, because a cancel starts several things in one instant. So
a script that differs is played again as the library does it, and then has to agree; one in FORGIVEN may still
differ (most of them by the cancel of a gather whose futures are all done, though it does not know yet, which
asyncio ignores).
"""
import asyncio
import json
import selectors
import sys

ECANCELED, ETIMEDOUT, EINVALIDSTATE, EMISUSE, ETASKGROUP = -20001, -20002, -20003, -20004, -20010
TASKS, FUTURES, STEPS = 10, 4, 24
FORGIVEN = 100
PASS, SWALLOW, TAKE_BACK, REPLACE, LATE, ERRORS = range(6)


class Code(Exception):
    def __init__(self, code):
        super().__init__(code)
        self.code = code


def code_of(error):
    if isinstance(error, asyncio.CancelledError):
        return ECANCELED
    if isinstance(error, TimeoutError):
        return ETIMEDOUT
    if isinstance(error, BaseExceptionGroup):
        return ETASKGROUP
    if isinstance(error, asyncio.InvalidStateError):
        return EINVALIDSTATE
    if isinstance(error, Code):
        return error.code
    if isinstance(error, RuntimeError):
        return EMISUSE
    raise error


def error_of(code):
    if code == ECANCELED:
        return asyncio.CancelledError()
    if code == ETIMEDOUT:
        return TimeoutError()
    return Code(code)


class Clock(selectors.SelectSelector):
    """Nothing is ever ready, and waiting takes no time."""
    now = 0.0

    def select(self, timeout=None):
        self.now += timeout or 0
        return []


class Loop(asyncio.SelectorEventLoop):
    def __init__(self):
        self.clock = Clock()
        super().__init__(self.clock)

    def time(self):
        return self.clock.now


async def wait_for_as_future(inner, seconds):
    """The same, but what is awaited is a future that follows the inner one."""
    loop = asyncio.get_running_loop()
    outer = loop.create_future()
    expired = False

    def follow(f):
        if outer.done():
            return
        if f.cancelled() and expired:
            outer.set_exception(TimeoutError())
        elif f.cancelled():
            outer.cancel()
        elif f.exception() is not None:
            outer.set_exception(f.exception())
        else:
            outer.set_result(f.result())

    def late():
        nonlocal expired
        expired = True
        inner.cancel()

    class Follower(asyncio.Future):
        def cancel(self, msg=None):
            nonlocal expired
            if self.done():
                return False
            if inner.cancel():
                expired = False
                nonlocal cancelled
                cancelled = True
                return True
            return super().cancel()

    cancelled = False
    outer = Follower(loop=loop)
    if inner.done():
        follow(inner)
        return await outer
    inner.add_done_callback(follow)
    timer = loop.call_later(seconds, lambda: None if cancelled or inner.done() else late())
    try:
        return await outer
    finally:
        timer.cancel()


class Group(asyncio.TaskGroup):
    """The same, but when the wait at its end is cancelled it cancels its tasks at once."""
    early = False

    def _abort(self):
        if self.early:
            self._aborting = True
        else:
            super()._abort()

    async def __aenter__(self):
        await super().__aenter__()
        group, loop = self, self._loop

        class Wait(asyncio.Future):
            def cancel(self, msg=None):
                if not self.done() and not group._aborting and not group.early:
                    group.early = True
                    for task in list(group._tasks):
                        task.cancel()
                return super().cancel()

        class Maker:
            def create_future(self):
                return Wait(loop=loop)

            def __getattr__(self, name):
                return getattr(loop, name)
        self._loop = Maker()
        return self


class World:
    def __init__(self, script, as_library=False):
        self.wait_for = wait_for_as_future if as_library else asyncio.wait_for
        self.group = Group if as_library else asyncio.TaskGroup
        self.script = script
        self.loop = Loop()
        self.loop.set_exception_handler(lambda loop, context: None)
        self.objects = {}
        self.created = set()
        self.membership = {}
        self.trace = []
        self.all = set()

    def record(self, what, who, where, number, extra=0):
        self.trace.append([what, round(self.loop.time() * 1e6), who, where, number, extra])

    def create(self, i, group, eager, keep):
        if i in self.created:
            return
        self.created.add(i)
        self.membership[i] = group
        coroutine = self.body(i)
        try:
            if group is not None:
                task = group.create_task(coroutine)
            elif eager and asyncio._get_running_loop():
                task = asyncio.Task(coroutine, loop=self.loop, eager_start=True)
            else:
                task = self.loop.create_task(coroutine)
        except RuntimeError:
            coroutine.close()
            task = self.loop.create_future()
            task.set_exception(Code(EMISUSE))
        self.all.add(task)
        if keep:
            self.objects[i] = task

    def interfere(self, op, who, where, of, number):
        f = self.objects.get(of)
        if f is None:
            return
        n = 0
        try:
            if op == "cancel":
                n = int(f.cancel())
            elif op == "uncancel":
                n = f.uncancel() if isinstance(f, asyncio.Task) else 0
            elif op == "set_result":
                f.set_result(of)
            elif op == "set_exception":
                f.set_exception(Code(number))
            elif op == "look":
                error = f.exception()
                n = 0 if error is None else code_of(error)
        except (asyncio.CancelledError, asyncio.InvalidStateError) as error:
            n = code_of(error)
        self.record(op, who, where, of, n)

    def combine(self, step):
        inner = [self.objects.get(i) for i in step["of"][:step["count"]]]
        if None in inner:
            return None
        seconds = step["time"] / 1e6
        if step["op"] == "sleep":
            return asyncio.sleep(seconds)
        if step["op"] == "wait_for":
            return self.wait_for(inner[0], seconds)
        if step["op"] == "shield":
            return asyncio.shield(inner[0])
        if step["op"] == "gather":
            return asyncio.gather(*inner, return_exceptions=bool(step["number"]))
        when = (asyncio.ALL_COMPLETED, asyncio.FIRST_COMPLETED, asyncio.FIRST_EXCEPTION)[step["number"]]

        async def wait():
            over = [f.done() and (when == asyncio.FIRST_COMPLETED or (
                when == asyncio.FIRST_EXCEPTION and not f.cancelled() and f.exception() is not None)) for f in inner]
            if any(over) or all(f.done() for f in inner):
                return 0
            await asyncio.wait(inner, timeout=seconds or None, return_when=when)
            return 0  # not how many are done: that is counted when it is over, here when the task goes on
        return wait()

    async def body(self, i):
        steps = self.script["tasks"][i]["steps"]
        scopes = []  # (number of the step, the object)
        at = 0
        error = None  # on its way out
        self.record("begins", i, 0, 0)
        while at < len(steps):
            step = steps[at]
            op = step["op"]
            failed = None
            waited = True
            n = 0
            try:
                if op == "nap":
                    await asyncio.sleep(step["time"] / 1e6)
                elif op == "await":
                    f = self.objects.get(step["of"][0])
                    waited = f is not None
                    if waited:
                        n = await f
                elif op in ("sleep", "wait_for", "shield", "gather", "wait"):
                    f = self.combine(step)
                    waited = f is not None and not step["keep"]
                    if f is not None and step["keep"]:
                        self.objects[TASKS + FUTURES + i * STEPS + at] = f
                    elif waited:
                        n = await f
                elif op == "leave" and steps[step["match"]]["op"] == "group":
                    await scopes[-1][1].__aexit__(type(error) if error else None, error, None)
                    if error is not None:
                        raise error
                else:
                    waited = False
            except BaseException as caught:
                failed = caught
                n = code_of(caught)
            if op == "leave":
                scope = scopes.pop()[1]
                if not waited:
                    try:
                        await scope.__aexit__(type(error) if error else None, error, None)
                        failed = error
                    except BaseException as caught:
                        failed = caught
                    n = 0 if failed is None else code_of(failed)
                    self.record("leaves", i, at, n)
                error = None
            if waited:
                results = n
                if isinstance(n, list):
                    n = len(n)
                elif n is None:
                    n = 0
                self.record("gets", i, at, n)
                if isinstance(results, list):
                    for k, result in enumerate(results):
                        if isinstance(result, list):
                            result = len(result)
                        if isinstance(result, BaseException):
                            result = code_of(result)
                        self.record("one of", i, at, k, result)
                if op == "leave" and isinstance(failed, BaseExceptionGroup):
                    codes = sorted(code_of(e) for e in failed.exceptions)
                    for code in codes:
                        self.record("an error of", i, at, code, len(codes))
            if op == "fail":
                failed = error_of(step["number"])
            elif failed is not None:
                care = step["care"]
                if care == REPLACE:
                    failed = Code(-500 - at)
                elif care == SWALLOW or care == TAKE_BACK or (care == LATE and n == ETIMEDOUT) or \
                        (care == ERRORS and n != ECANCELED):
                    failed = None
                if care == TAKE_BACK and n == ECANCELED and i in self.objects:
                    self.interfere("uncancel", i, at, i, 0)
            if failed is not None:
                if not scopes:
                    self.record("ends", i, at, code_of(failed))
                    raise failed
                error = failed
                at = steps[scopes[-1][0]]["match"]
                continue
            if op == "create":
                group = None
                if step["grouped"]:
                    group = self.membership.get(i) if step["inherited"] else next(
                        (s for b, s in reversed(scopes) if steps[b]["op"] == "group"), None)
                if group is not None or not step["grouped"]:
                    self.create(step["of"][0], group, step["eager"], step["keep"])
            elif op == "group":
                group = self.group()
                await group.__aenter__()
                scopes.append((at, group))
            elif op == "timeout":
                scope = asyncio.timeout(None if step["time"] is None else step["time"] / 1e6)
                await scope.__aenter__()
                scopes.append((at, scope))
            elif op == "reschedule":
                k = step["number"]
                if k < len(scopes) and steps[scopes[k][0]]["op"] == "timeout":
                    r = 0
                    try:
                        scopes[k][1].reschedule(None if step["time"] is None else self.loop.time() + step["time"] / 1e6)
                    except RuntimeError:
                        r = EMISUSE
                    self.record("reschedule", i, at, k, r)
            elif op in ("cancel", "uncancel", "set_result", "set_exception", "look"):
                self.interfere(op, i, at, step["of"][0], step["number"])
            at += 1
        self.record("ends", i, at, 100 + i)
        return 100 + i

    def sweep(self):
        pending = [f for _, f in sorted(self.objects.items()) if not f.done()]
        for f in pending:
            f.cancel()
        if pending or asyncio.all_tasks(self.loop):
            self.loop.call_later(0.05, self.sweep)
        else:
            self.loop.stop()

    def run(self):
        script = self.script
        for i in range(script["futures"]):
            self.objects[TASKS + i] = self.loop.create_future()
        for op, of, number, time in script["events"]:
            self.loop.call_later(time / 1e6, self.interfere, op, -1, 0, of, number)
        self.loop.call_later(0.2, self.sweep)
        for i, task in enumerate(script["tasks"]):
            if task["root"]:
                self.create(i, None, False, True)
        self.loop.run_forever()
        for f in list(self.objects.values()) + list(self.all):
            if f.done() and not f.cancelled():
                f.exception()
        self.loop.close()
        return self.trace


COMPARED = ("begins", "gets", "one of", "an error of", "leaves", "ends", "cancel", "uncancel", "set_result",
            "set_exception", "look", "reschedule")


def seen_by(script, trace):
    """What each task saw, without how many tasks there were."""
    seen = {}
    for what, time, who, where, number, extra in trace:
        if what == "gets" and number >= 0 and script["tasks"][who]["steps"][where]["op"] == "wait":
            number = 0
        if what in COMPARED:
            record = [what, time, where, 0 if what == "begins" else number, 0 if what in ("begins", "ends") else extra]
            seen.setdefault(who, []).append(record)
    return seen


def main():
    if sys.version_info < (3, 13):
        print("oracle_tasks.py: needs the asyncio of Python 3.13 or newer")
        return 2
    played = records = 0
    different = []
    for line in sys.stdin:
        script = json.loads(line)
        expected = seen_by(script, script["trace"])
        got = seen_by(script, World(script).run())
        played += 1
        records += len(script["trace"])
        if expected == got or expected == seen_by(script, World(script, True).run()):
            continue
        different.append(script["seed"])
        if len(different) <= 3:
            print("seed", script["seed"])
            for who in sorted(set(expected) | set(got)):
                a, b = expected.get(who, []), got.get(who, [])
                if a != b:
                    k = next((k for k in range(min(len(a), len(b))) if a[k] != b[k]), min(len(a), len(b)))
                    print("  task", who, "model", a[k:k + 3], "asyncio", b[k:k + 3])
    version = sys.version.split()[0]
    print(f"{played} scripts, {records} records, {len(different)} differ from asyncio {version}: {different[:20]}")
    return 1 if len(different) * FORGIVEN > played else 0


if __name__ == "__main__":
    sys.exit(main())
