"""Goes out again and again until it is killed: hammer.py OUT [tcp|udp|hold|name] TARGET ...

tcp opens a connection for every try, hold keeps one and opens another only when it broke, name looks the name up each
time. Each try is a line in OUT: when it began, when it ended, what, where to, and "ok" or why not.
"""
import socket, sys, threading, time

out, lock = open(sys.argv[1], "a", buffering=1), threading.Lock()


def address(target):
    while True:
        try:
            return socket.getaddrinfo(target, None, socket.AF_INET)[0][4][0]
        except OSError:
            time.sleep(0.05)


def echo(s):
    s.sendall(b"ping\n")
    got = s.recv(100)
    if got != b"ping\n":
        raise ConnectionResetError("got %r" % got)


def connect(to):
    s = socket.create_connection((to, 7), 3)
    s.settimeout(3)
    return s


def once_tcp(to, state):
    with connect(to) as s:
        echo(s)


def once_name(name, state):
    once_tcp(socket.getaddrinfo(name, None, socket.AF_INET)[0][4][0], state)


def once_hold(to, state):
    try:
        state["s"] = state.get("s") or connect(to)
        echo(state["s"])
    except OSError:
        if state.get("s"):
            state["s"].close()
        state["s"] = None
        raise


def once_udp(to, state):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(1)
        s.connect((to, 9000))
        s.send(b"ping")
        s.recv(100)


def forever(kind, target):
    to = target if kind == "name" else address(target)
    state, once = {}, globals()["once_" + kind]
    while True:
        began, result = time.time(), "ok"
        try:
            once(to, state)
        except OSError as e:
            result = type(e).__name__
        with lock:
            out.write("%.4f %.4f %s %s %s\n" % (began, time.time(), kind, target, result))
        time.sleep(0.03)


for kind, target in zip(sys.argv[2::2], sys.argv[3::2]):
    threading.Thread(target=forever, args=(kind, target)).start()
