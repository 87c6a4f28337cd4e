"""Drives every Execution and Control call with nothing but what grpcio-tools makes of proto/.

Usage: independent_client.py PROTO_FOLDER SOCKET. The agent has a pool `text` of two workers and a pool `faults` of one.
Prints the names of the calls it made as a JSON list; fails with an exception where an answer is not as the protos say.
"""

import importlib
import json
import os
import sys
import tempfile
import time

import grpc
from grpc_tools import protoc

proto_folder, socket = sys.argv[1:]
generated = tempfile.mkdtemp()
protos = ["pitwarden/v1/execution.proto", "pitwarden/v1/control.proto"]
assert (
    protoc.main(["", f"-I{proto_folder}", f"--python_out={generated}", f"--grpc_python_out={generated}", *protos]) == 0
)
# A package of that name is installed too: the generated one must come first, and stand alone.
sys.path.insert(0, generated)
execution_pb2 = importlib.import_module("pitwarden.v1.execution_pb2")
execution = importlib.import_module("pitwarden.v1.execution_pb2_grpc")
control_pb2 = importlib.import_module("pitwarden.v1.control_pb2")
control = importlib.import_module("pitwarden.v1.control_pb2_grpc")
assert execution_pb2.__file__.startswith(generated)

channel = grpc.insecure_channel(f"unix:{socket}")
run = execution.ExecutionStub(channel)
# What changes something is done at the socket beside it.
node = control.ControlStub(grpc.insecure_channel(f"unix:{os.path.dirname(socket)}/control.sock"))
made = []


def call(stub, name, request, **options):
    if name not in made:
        made.append(name)
    return getattr(stub, name)(request, timeout=options.pop("timeout", 30), **options)


def until(condition, what):
    end = time.monotonic() + 30
    while not (value := condition()):
        assert time.monotonic() < end, f"waited 30 s for {what}"
        time.sleep(0.02)
    return value


def ask(pool, command, arguments=(), **more):
    payload = json.dumps(arguments).encode()
    return execution_pb2.ExecuteRequest(pool=pool, command=command, payload=payload, **more)


def refusal(make):
    """Status and words of a call that Control refuses."""
    try:
        make()
    except grpc.RpcError as error:
        return error.code(), error.details()
    raise AssertionError("expected a refusal")


def failure(made_call):
    try:
        made_call()
    except grpc.RpcError as error:
        trailers = dict(error.trailing_metadata() or ())
        return error.code(), execution_pb2.Error.FromString(trailers["pitwarden-error-bin"])
    raise AssertionError("expected the call to fail")


def ready(pool):
    workers = call(node, "ListWorkers", control_pb2.ListWorkersRequest(pool=pool)).workers
    return [worker for worker in workers if worker.state == control_pb2.WORKER_STATE_READY]


# Execution
answer = call(run, "Execute", ask("text", "count_words", {"text": "a b a"}, request_id="first"))
assert json.loads(answer.payload) == {"a": 2, "b": 1}
assert (answer.content_type, answer.request_id) == ("application/json", "first") and answer.worker_id
made_id = call(run, "Execute", ask("text", "count_words", ["a"])).request_id
assert made_id not in ("", "first")

code, error = failure(lambda: call(run, "Execute", ask("nowhere", "x")))
assert code == grpc.StatusCode.NOT_FOUND and "text" in error.message, error
code, error = failure(lambda: call(run, "Execute", ask("text", "nothing")))
assert code == grpc.StatusCode.NOT_FOUND and "summarize" in error.message, error
code, error = failure(lambda: call(run, "Execute", ask("text", "count_words", {"txt": "a"})))
assert code == grpc.StatusCode.INVALID_ARGUMENT and "text" in error.message, error
code, error = failure(lambda: call(run, "Execute", ask("text", "count_words", content_type="text/plain")))
assert code == grpc.StatusCode.INVALID_ARGUMENT and "application/json" in error.message, error
code, error = failure(lambda: call(run, "Execute", ask("text", "tokens", ["a b"])))
assert code == grpc.StatusCode.INVALID_ARGUMENT and "ExecuteStream" in error.message, error
code, error = failure(lambda: call(run, "Execute", ask("faults", "raise_error", ["naïve ☃"])))
assert (code, error.type) == (grpc.StatusCode.UNKNOWN, "builtins.RuntimeError"), error
assert error.message == "naïve ☃" and "raise_error" in error.traceback and error.worker_id
try:
    call(run, "Execute", ask("faults", "sleep", [20]), timeout=0.3)
    raise AssertionError("expected the deadline to pass")
except grpc.RpcError as late:
    assert late.code() == grpc.StatusCode.DEADLINE_EXCEEDED

chunks = [json.loads(chunk.payload) for chunk in call(run, "ExecuteStream", ask("text", "tokens", ["one two three"]))]
assert chunks == ["one", "two", "three"], chunks
single = [json.loads(chunk.payload) for chunk in call(run, "ExecuteStream", ask("text", "count_words", ["a"]))]
assert single == [{"a": 1}], single

items = [
    execution_pb2.SubmitItem(request=ask("text", "count_words", ["w " * n], request_id=str(n))) for n in range(1, 201)
]
items.append(execution_pb2.SubmitItem(request=ask("text", "tokens", ["x y"], request_id="stream")))
items.append(execution_pb2.SubmitItem(request=ask("faults", "sleep", [20], request_id="late"), timeout_ms=200))
items.append(execution_pb2.SubmitItem(request=ask("nowhere", "x", request_id="lost")))
items.append(execution_pb2.SubmitItem(request=ask("text", "tokens", ["x y"])))
messages = [execution_pb2.SubmitRequest(items=items[at : at + 50]) for at in range(0, len(items), 50)]
results = {}
for response in call(run, "Submit", iter(messages)):
    for result in response.results:
        results.setdefault(result.request_id, []).append(result)
for n in range(1, 201):
    assert json.loads(results[str(n)][0].response.payload) == {"w": n}
assert [result.more for result in results["stream"]] == [True, True, False]
assert results["late"][0].error.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0], results["late"]
assert results["lost"][0].error.code == grpc.StatusCode.NOT_FOUND.value[0]
assert results[""][0].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]

# Control: reading
this = call(node, "GetNode", control_pb2.GetNodeRequest())
assert this.state == control_pb2.NODE_STATE_RUNNING and this.pools == 2 and this.agent_id and this.pid
pools = {pool.pool: pool for pool in call(node, "ListPools", control_pb2.ListPoolsRequest()).pools}
assert sorted(pools) == ["faults", "text"]
offered = {command.name: command for command in pools["text"].commands}
assert offered["summarize"].summary and not offered["summarize"].streams and offered["tokens"].streams, offered
assert pools["text"].requests_completed >= 203
first = ready("text")[0]
one = call(node, "GetWorker", control_pb2.GetWorkerRequest(worker_id=first.worker_id))
assert one.pid == first.pid and one.rss_bytes > 0 and one.started_at_ms and one.python_version
try:
    call(node, "GetWorker", control_pb2.GetWorkerRequest(worker_id="nobody"))
    raise AssertionError("expected NOT_FOUND")
except grpc.RpcError as missing:
    assert missing.code() == grpc.StatusCode.NOT_FOUND and "nobody" in missing.details()

code, error = refusal(lambda: next(call(node, "Watch", control_pb2.WatchRequest(pool="nowhere"))))
assert code == grpc.StatusCode.NOT_FOUND and "faults, text" in error, error
watch = call(node, "Watch", control_pb2.WatchRequest(pool="text"), timeout=120)
snapshot = next(watch)
assert snapshot.WhichOneof("change") == "snapshot" and len(snapshot.snapshot.workers) == 2

since = control_pb2.WatchRequest(from_revision=snapshot.revision, agent_id=this.agent_id, bookmark_interval_ms=100)
resumed = call(node, "Watch", since, timeout=120)
while (missed := next(resumed)).WhichOneof("change") != "bookmark":
    assert missed.revision > snapshot.revision and missed.WhichOneof("change") != "snapshot", missed
resumed.cancel()
since.agent_id = "another"
code, error = refusal(lambda: next(call(node, "Watch", since)))
assert code == grpc.StatusCode.OUT_OF_RANGE and this.agent_id in error, error

report = call(node, "Report", control_pb2.ReportRequest(interval_ms=100), timeout=120)
beats = [next(report) for _ in range(3)]
report.cancel()
assert [beat.sequence for beat in beats] == [1, 2, 3] and beats[0].agent_id == this.agent_id and beats[0].boot_id, beats
reported = {pool.pool: pool for pool in beats[-1].pools}
assert sorted(reported) == ["faults", "text"] and not beats[-1].more, beats[-1]
assert reported["text"].workers_well == 2 and reported["text"].open and reported["text"].requests_completed >= 203
assert reported["text"].HasField("last_evidence_age_ms") and reported["text"].memory_bytes > 0, reported["text"]

telemetry = call(node, "StreamTelemetry", control_pb2.StreamTelemetryRequest(pool="text"), timeout=120)
opened = next(telemetry)
telemetry.cancel()
assert opened.sequence == 1 and opened.agent_id == this.agent_id and not opened.measurements, opened

# Control: changing
code, error = refusal(lambda: call(node, "ScalePool", control_pb2.ScalePoolRequest(pool="text")))
assert code == grpc.StatusCode.INVALID_ARGUMENT and error == "size: expected 0 to 1000, got none", error
scaled = call(node, "ScalePool", control_pb2.ScalePoolRequest(pool="text", size=3))
assert scaled.size == 3
until(lambda: len(ready("text")) == 3, "three ready workers")
started = call(node, "StartWorker", control_pb2.StartWorkerRequest(pool="text"))
assert started.pool.size == 4 and started.slot == 3
until(lambda: len(ready("text")) == 4, "four ready workers")
call(node, "StopWorker", control_pb2.StopWorkerRequest(worker_id=ready("text")[3].worker_id))
until(lambda: len(ready("text")) == 3, "three again")
call(node, "DrainWorker", control_pb2.DrainWorkerRequest(worker_id=ready("text")[2].worker_id))
until(lambda: len(ready("text")) == 2, "two again")
old = ready("text")[0]
call(node, "RecycleWorker", control_pb2.RecycleWorkerRequest(worker_id=old.worker_id))
until(lambda: old.worker_id not in [w.worker_id for w in ready("text")] and len(ready("text")) == 2, "a replacement")
new = next(worker for worker in ready("text") if worker.slot == old.slot)
assert new.generation == old.generation + 1

rolled = list(call(node, "RollPool", control_pb2.RollPoolRequest(pool="text"), timeout=120))
assert rolled[0].state == control_pb2.ROLL_STATE_RUNNING and rolled[0].total == 2 and rolled[0].replaced == 0, rolled[0]
assert rolled[-1].state == control_pb2.ROLL_STATE_DONE and rolled[-1].replaced == 2, rolled[-1]
assert new.worker_id not in [w.worker_id for w in ready("text")] and len(ready("text")) == 2
rolls = {roll.roll_id for roll in rolled}
watched = list(call(node, "WatchRoll", control_pb2.WatchRollRequest(pool="text", roll_id=rolled[0].roll_id)))
assert len(rolls) == 1 and watched == [rolled[-1]], (rolls, watched)
other = control_pb2.WatchRollRequest(pool="text", roll_id="roll-aaaaaaaa")
code, error = refusal(lambda: list(call(node, "WatchRoll", other)))
assert code == grpc.StatusCode.NOT_FOUND and rolled[0].roll_id in error, error
code, error = refusal(lambda: call(node, "PauseRoll", control_pb2.PauseRollRequest(pool="text")))
assert code == grpc.StatusCode.FAILED_PRECONDITION and "got done" in error, error
again = call(node, "RollPool", control_pb2.RollPoolRequest(pool="text", max_failures=1), timeout=120)
next(again)
paused = call(node, "PauseRoll", control_pb2.PauseRollRequest(pool="text"))
assert paused.state == control_pb2.ROLL_STATE_PAUSED, paused
resumed = call(node, "ResumeRoll", control_pb2.ResumeRollRequest(pool="text"))
assert resumed.state == control_pb2.ROLL_STATE_RUNNING, resumed
aborted = call(node, "AbortRoll", control_pb2.AbortRollRequest(pool="text"))
assert aborted.state == control_pb2.ROLL_STATE_ABORTED and aborted.ended_at_ms, aborted
assert list(again)[-1].state == control_pb2.ROLL_STATE_ABORTED
until(lambda: len(ready("text")) == 2, "two workers after the aborted roll")

drained = call(node, "DrainPool", control_pb2.DrainPoolRequest(pool="text"))
assert drained.state == control_pb2.POOL_STATE_DRAINING and len(ready("text")) == 2
code, error = failure(lambda: call(run, "Execute", ask("text", "count_words", ["a"])))
assert code == grpc.StatusCode.UNAVAILABLE and "draining" in error.message, error
kept = call(node, "ScalePool", control_pb2.ScalePoolRequest(pool="text", size=2))
assert (kept.size, kept.state) == (2, control_pb2.POOL_STATE_DRAINING), kept
code, error = refusal(lambda: call(node, "StartWorker", control_pb2.StartWorkerRequest(pool="text")))
assert code == grpc.StatusCode.FAILED_PRECONDITION and "ResumePool" in error, error
opened = call(node, "ResumePool", control_pb2.ResumePoolRequest(pool="text"))
assert opened.state == control_pb2.POOL_STATE_RUNNING, opened
call(run, "Execute", ask("text", "count_words", ["a"]))
assert call(node, "DrainNode", control_pb2.DrainNodeRequest()).state == control_pb2.NODE_STATE_DRAINING
code, error = failure(lambda: call(run, "Execute", ask("faults", "leak", [1])))
assert code == grpc.StatusCode.UNAVAILABLE, error
assert call(node, "ResumeNode", control_pb2.ResumeNodeRequest()).state == control_pb2.NODE_STATE_RUNNING
call(run, "Execute", ask("faults", "leak", [1]))

seen, revision = [], snapshot.revision
for change in watch:
    assert change.revision >= revision and change.agent_id == this.agent_id
    revision = change.revision
    if change.WhichOneof("change") == "event":
        seen.append((change.event.kind, change.event.reason, change.event.worker_id))
    if change.WhichOneof("change") == "worker_gone" and change.worker_gone == old.worker_id:
        break
watch.cancel()
kinds = {kind for kind, _, _ in seen}
assert {"pool_scaled", "worker_started", "worker_ready", "worker_draining", "worker_exited"} <= kinds, kinds
assert ("worker_exited", "operator", old.worker_id) in seen, seen

exits = {e.worker_id: e for e in call(node, "ListExits", control_pb2.ListExitsRequest(pool="text")).exits}
last = exits[old.worker_id]
assert last.reason == "operator" and last.has_exit_code and last.exit_code == 0 and not last.unplanned, last
assert last.started_at_ms <= last.spawned_at_ms <= last.ready_at_ms <= last.exited_at_ms, last
assert last.pid == old.pid and last.memory_bytes > 0, last
assert last.start_interpreter_ms > 0 and last.start_import_ms > 0, last
assert last.evidence.because == "", last

registry = call(node, "GetRegistry", control_pb2.GetRegistryRequest())
assert registry.node_id == this.node_id and registry.agent_id == this.agent_id and registry.revision, registry
entry = next(each for each in registry.workers if each.worker_id == ready("text")[0].worker_id)
assert entry.pid and entry.boot_id and entry.start_time.isdigit() and entry.attached and not entry.adopted, entry
assert len(entry.config) == 16 and 0 < entry.revision <= registry.revision, entry

told = call(node, "Explain", control_pb2.ExplainRequest(worker_id=ready("text")[0].worker_id))
assert told.health == control_pb2.WORKER_HEALTH_WELL and told.because and len(told.observations) >= 8, told
assert call(node, "Explain", control_pb2.ExplainRequest(worker_id=old.worker_id)).exit.reason == "operator"

history = call(node, "ListEvents", control_pb2.ListEventsRequest(pool="text", kinds=["worker_exited"]))
assert history.resume_token and old.worker_id in {event.worker_id for event in history.events}, history

reloaded = call(node, "ReloadConfig", control_pb2.ReloadConfigRequest(dry_run=True))
assert not reloaded.applied and not reloaded.problems and reloaded.HasField("plan"), reloaded
assert reloaded.config_path == this.config_path, reloaded

intent = control_pb2.SetDesiredRequest(cluster_uid="independent", epoch=1, generation=1)
intent.pools.add(pool="text", size=1, admission=control_pb2.POOL_ADMISSION_OPEN)
applied = call(node, "SetDesired", intent)
assert applied.epoch == 1 and applied.generation == 1, applied
assert call(node, "ReleaseNode", control_pb2.ReleaseNodeRequest(force=True)).node_id

other = control_pb2.HandoverRequest(agent_id="another")
code, error = refusal(lambda: call(node, "Handover", other))
assert code == grpc.StatusCode.FAILED_PRECONDITION and this.agent_id in error, error

offered = {
    method.name
    for module, service in ((execution_pb2, "Execution"), (control_pb2, "Control"))
    for method in module.DESCRIPTOR.services_by_name[service].methods
}
assert offered == set(made), offered ^ set(made)
# grpcio may wait for ever at the end of the interpreter for a call that still is open.
channel.close()
print(json.dumps(made))
