import pitwarden

app = pitwarden.App()


@app.on_start
def load_model():
    raise FileNotFoundError("model.bin")
