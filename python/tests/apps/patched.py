"""An application that patches its standard library with gevent or eventlet, as TEST_PATCH says."""

import os
import time

patch, _, threads = os.environ["TEST_PATCH"].partition(" ")
if patch == "gevent":
    from gevent import monkey

    monkey.patch_all(thread=threads == "threads")
else:
    import eventlet

    eventlet.monkey_patch(thread=threads == "threads")

import pitwarden  # noqa: E402

app = pitwarden.App()


@app.command
def hi():
    time.sleep(0.01)
    return "hi"


@app.command
async def later():
    return "later"


if __name__ == "__main__":
    app.run()
