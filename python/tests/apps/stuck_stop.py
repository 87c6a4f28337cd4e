import time

import pitwarden

app = pitwarden.App()


@app.on_stop
def stuck():
    time.sleep(3600)
