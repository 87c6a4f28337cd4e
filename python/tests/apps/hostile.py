"""Commands whose exceptions, values and tasks misbehave, and commands that use context variables."""

import asyncio
import contextvars
import functools
import os
import signal
import sys
import threading
import time

import pitwarden

app = pitwarden.App()
user = contextvars.ContextVar("user", default="nobody")
service = contextvars.ContextVar("service", default="unset")
service.set("billing")


@app.command
def login(name):
    user.set(name)
    return name


@app.command
async def alogin(name):
    user.set(name)
    return name


@app.command
def login_stream(name):
    user.set(name)
    yield user.get()


@app.command
def who():
    return [user.get(), service.get()]


@app.command
async def awho():
    return [user.get(), service.get()]


@app.command
def who_stream():
    yield user.get()
    yield service.get()


def wait(file):
    while not os.path.exists(os.path.join(os.environ["TEST_DIR"], file)):
        time.sleep(0.005)


class Odd(Exception):
    def __str__(self):
        sys.exit(9)


@app.command
def fail():
    raise Odd


@app.command
async def async_fail():
    raise Odd


@app.command
def named():
    cls = type("Cafe", (Exception,), {})
    cls.__qualname__ = "Caf\udce9"
    raise cls("closed")


@app.command
def unsendable():
    return type("Cafe" + "x" * 10_000, (), {})()


class Nameless(type):
    def __getattribute__(cls, name):
        return sys.exit(9) if name == "__qualname__" else super().__getattribute__(name)


class Unnamed(Exception, metaclass=Nameless):
    pass


@app.command
def nameless():
    raise Unnamed("so?")


class Items(dict):
    def items(self):
        sys.exit(9)


@app.command
def odd_items():
    return Items(a=1)


class Default:
    def __repr__(self):
        sys.exit(9)


@app.command
def odd_default(a=Default()):  # noqa: B008
    return 1


@app.command
def report(file):
    pitwarden.context().progress(0.5, "caf\udce9" + "x" * 10_000)
    wait(file)


@app.command
def pid():
    return os.getpid()


@app.command
async def task_that_exits():
    async def task():
        sys.exit(9)

    asyncio.get_running_loop().create_task(task())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return "here"


@app.command
async def stop_loop():
    asyncio.get_running_loop().stop()
    return "here"


@app.command
async def break_loop():
    """Closes a descriptor, like code that closes all descriptors of its process."""
    os.close(asyncio.get_running_loop()._selector.fileno())


@app.command
async def block_loop():
    pitwarden.context().progress(-1, "blocking")
    threading.Event().wait()


@app.command
def close_wakeup():
    """Closes a descriptor, like code that closes all descriptors of its process."""
    os.close(signal.set_wakeup_fd(-1))


def run_to_its_end(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return asyncio.run(function(*args, **kwargs))

    return wrapper


@app.command
@run_to_its_end
async def sync_over_async(a):
    await asyncio.sleep(0)
    return a


def passing(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


@app.command
@passing
async def passed_async(a):
    await asyncio.sleep(0)
    return [a, pitwarden.context().request_id != "", threading.current_thread() is threading.main_thread()]


@app.command
@passing
async def passed_async_stream(to):
    for n in range(to):
        yield n


@app.command
@passing
async def passed_for_ever():
    pitwarden.context().progress(-1, "waits")
    await asyncio.sleep(3600)


def awaiting(function):
    @functools.wraps(function)
    async def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


@app.command
@awaiting
def async_over_sync(a):
    return a


@app.command
@awaiting
def async_over_stream(to):
    yield from range(to)


@app.on_stop
def first():
    print("first stop hook", flush=True)


@app.on_stop
def last():
    sys.exit("no")


@app.command
def retire(reason, file=""):
    pitwarden.context().retire(reason)
    pitwarden.context().retire("another reason")
    if file:
        wait(file)
    return "the last answer"


@app.command
async def aretire(reason):
    pitwarden.context().retire(reason)
    return "the last answer"
