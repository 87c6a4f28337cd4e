"""Logs in the ways of applications. TEST_LOGGING says how it configures logging."""

import logging
import os
import sys
import threading

import pitwarden

app = pitwarden.App()
log = logging.getLogger("app.model")
how = os.environ.get("TEST_LOGGING", "")
log.info("imported")
library = logging.getLogger("library")
library.addHandler(logging.NullHandler())
if how == "basic":
    logging.basicConfig(level=logging.DEBUG)
if how == "format":
    logging.basicConfig(format="%(levelname)s! %(message)s", stream=sys.stdout)
if how == "file":
    logging.basicConfig(filename=os.path.join(os.environ["TEST_DIR"], "log"))
if how == "own":
    log.addHandler(logging.StreamHandler())
    private = logging.getLogger("private")
    private.setLevel(logging.DEBUG)
    private.addHandler(logging.FileHandler(os.path.join(os.environ["TEST_DIR"], "private")))
if how == "warning":
    logging.getLogger().setLevel(logging.ERROR)


@app.command
def say(message):
    log.debug("debug: %s", message)
    log.info("info: %s", message)
    library.warning("warning: %s", message)
    try:
        raise ValueError("no such\nmodel")
    except ValueError:
        log.exception("it failed")
    return message


@app.command
async def say_later(message):
    log.info("info: %s", message)
    return message


@app.command
def say_in_private(message):
    logging.getLogger("private").debug(message)
    return message


@app.command
def set_up_late(message):
    path = os.path.join(os.environ["TEST_DIR"], "late")
    logging.basicConfig(filename=path, level=logging.INFO)
    log.info(message)
    with open(path) as file:
        return file.read()


@app.command
def say_long(message):
    log.info("begin %s end", message * 20_000)
    return ""


@app.command
def say_in_thread(message):
    thread = threading.Thread(target=log.critical, args=(message,))
    thread.start()
    thread.join()
    return message
