"""A worker in Python (pyzmq, msgpack), beside any others, that runs one command at a time. In two terminals:
    procession run --bind ipc:///tmp/jobs --json 'sleep 0.1; echo {}' ::: $(seq 99)
    python3 examples/python_worker.py ipc:///tmp/jobs
By TCP it joins with a ticket, which that run wrote (--ticket-out FILE): python3 examples/python_worker.py FILE.
Not for --pipe, --filter, --timeout, other placeholders than {}, nor outputs over 1 MB. Messages: docs/protocol.md."""
import contextlib, os, random, signal, socket, subprocess, sys, time, msgpack, zmq
HELLO, WELCOME, REFUSED, CREDIT, AGAIN, GOODBYE, SINK, DONE, REJOIN, PILL = 1, 2, 3, 4, 7, 8, 9, 10, 12, 13
TASKS, PART, RESULTS, STOP, tasks, parts, kept = 14, 15, 16, 20, [], {}, {}  # kept: results not acknowledged
endpoint, *keys = [sys.argv[1]] if "://" in sys.argv[1] else open(sys.argv[1]).read().split()[1:]
proof = [key.encode() for key in keys]  # of a ticket: the ventilator's key, and our pair
me, host, heard = random.getrandbits(62) + 1, socket.gethostname(), time.monotonic()
run, lane, sink, link, received, heartbeat, ended = 0, None, None, 0, 0, 1000, False
def connect(kind, address, keys=None):  # a host of * stands for the one that we dialled; keys: theirs, and our pair
    s = zmq.Context.instance().socket(kind)
    if keys and address[:3] == "tcp": s.curve_serverkey, s.curve_publickey, s.curve_secretkey = keys
    s.connect(address.replace("//*:", "//" + endpoint.split("//")[1].rsplit(":", 1)[0] + ":"))
    return s
def say(to, *message): to.send(msgpack.packb(message))
def credit(busy):  # one task more when none runs, unless the sink is far behind; it is our sign of life as well
    say(control, CREDIT, run, received + (not busy and len(kept) < 16), 1 << 62, received, int(busy))
def listen(child=None):  # takes in all that was said
    global shown, run, heartbeat, job, lane, sink, link, tasks, kept, ended, heard
    while ready := [s for s in (control, lane) if s and s.poll(0)]:
        (kind, *rest), heard = msgpack.unpackb(ready[0].recv()), time.monotonic()
        if kind in (REFUSED, REJOIN): sys.exit(f"the ventilator does not take this worker: {rest[1]}")
        if kind == WELCOME: run, _, heartbeat, lane, job = *rest[:3], connect(zmq.PULL, rest[3], proof), msgpack.unpackb(rest[4])
        if kind == WELCOME and job[0] != "Value": sys.exit("this worker leaves --pipe and --filter to others")
        if kind in (WELCOME, SINK):  # a sink that is new gets what is not acknowledged
            if kind == WELCOME: shown = rest[12].encode()  # what we show to the sink
            theirs = [rest[11 if kind == WELCOME else 4].encode(), shown[:40], shown[40:]]
            near = [e for e in rest[6 if kind == WELCOME else 2] if e[:3] in ("tcp", endpoint[:3])]
            sink, link = connect(zmq.PUSH, near[0], theirs if shown else None) if near else None, link + 1
            for result in kept.values() if sink else (): say(sink, RESULTS, run, me, link, [result])
        if kind == DONE: kept = {n: r for n, r in kept.items() if not any(a <= n < a + count for a, count in rest[1])}
        if kind == PART: parts[rest[3]] = (parts.get(rest[3], b"") if rest[5] else b"") + rest[6]
        tasks += rest[1] if kind == TASKS else ()
        if kind == STOP and child: os.killpg(child.pid, signal.SIGKILL)
        ended = ended or kind in (PILL, STOP)
    if time.monotonic() > heard + 30: sys.exit(f"heard nobody at {endpoint} for 30 s")
def perform(number, attempt, tries_left, value):
    value, form, start, name = parts.pop(number, value), job[1], time.time(), f"python-{me:x}"
    words = [b"sh", b"-c", value]  # without COMMAND; otherwise words as they are, or a script that has its value in $0
    if form != "Input":
        words, put = (form["Words"], value) if "Words" in form else ([form["Shell"]], b'"$0"')
        filled = [word.replace(b"{}", put) for word in (words if b"{}" in b" ".join(words) else words + [b"{}"])]
        words = filled if "Words" in form else [b"sh", b"-c", b" ".join(filled), value]
    names = f"PROCESSION_TASK={number} PROCESSION_ATTEMPT={attempt} PROCESSION_SLOT=1 PROCESSION_WORKER={name}".split()
    child = subprocess.Popen(["env", *names, *words], stdin=-3, stdout=-1, stderr=-1, start_new_session=True)
    while child.returncode is None:
        credit(busy=True), listen(child)
        with contextlib.suppress(subprocess.TimeoutExpired): out, err = child.communicate(timeout=heartbeat / 3000)
    exit, killed, seconds = max(child.returncode, 0), max(-child.returncode, 0), time.time() - start
    if child.returncode and tries_left: return say(control, AGAIN, run, number, attempt, exit, killed)
    head = value, b" ".join(words), host, name, 1, start, seconds, exit, killed, False, 0, None, len(out), len(err)
    body = msgpack.packb(head) + out + err
    kept[number] = number, attempt, exit, killed, int(seconds * 1e6), body if len(body) < 10**6 else "over 1 MB of output"
    if sink: say(sink, RESULTS, run, me, link, [kept[number]])
control = connect(zmq.DEALER, endpoint, proof)
say(control, HELLO, "procession", 1, 0, me, 0, 1 if endpoint.startswith("ipc") else 2, 1, host, "", os.getpid(), [], False, [], False, "")
while not ended:
    if not tasks: zmq.select([s for s in (control, lane) if s], [], [], heartbeat / 3000)
    listen()
    while tasks: received += 1; perform(*tasks.pop(0))
    if run: credit(busy=False)
say(control, GOODBYE, run, "", False)
zmq.Context.instance().destroy(linger=1000)  # what was said still goes out
