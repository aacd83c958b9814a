"""Tries to get out of a sandbox. Reads a list of attempts from standard input, and prints how each ended.

An outcome is "ok" and what came back, or one word for what went wrong.
"""
import base64, errno, json, socket, ssl, struct, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor


def word(e):
    if isinstance(e, socket.gaierror):
        return "noname"
    if isinstance(e, ConnectionRefusedError):
        return "refused"
    if isinstance(e, (ConnectionResetError, BrokenPipeError, ConnectionAbortedError)):
        return "reset"
    if isinstance(e, ssl.SSLEOFError):
        return "eof"
    if isinstance(e, TimeoutError):
        return "timeout"
    if isinstance(e, OSError) and e.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EADDRNOTAVAIL):
        return "unreachable"
    if isinstance(e, OSError) and e.errno == errno.EAFNOSUPPORT:
        return "unsupported"
    return "error " + repr(e)


def text(raw):
    return raw.decode("latin-1").strip()


def dial(a):
    if a.get("v6"):
        s = socket.socket(socket.AF_INET6)
        to = a["to"]
    else:
        s = socket.socket(socket.AF_INET)
        to = socket.getaddrinfo(a["to"], None, socket.AF_INET)[0][4][0]
    s.settimeout(a.get("timeout", 5))
    s.connect((to, a["port"]))
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s


def receive(s, atleast):
    got = b""
    while len(got) < atleast:
        piece = s.recv(65536)
        if not piece:
            if got:
                return got
            raise EOFError()
        got += piece
    return got


def tcp(a):
    with dial(a) as s:
        first = receive(s, 4) if a.get("listen") else b""
        time.sleep(a.get("wait", 0))
        got = b""
        for part in a.get("send", []):
            data = base64.b64decode(part)
            size = a.get("piece") or len(data)
            for i in range(0, len(data), size):
                s.sendall(data[i:i + size])
                time.sleep(a.get("gap", 0))
            got += b" " + receive(s, a.get("read") or len(data))
        return "ok " + text(first + got)


def tls(a):
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    c.check_hostname, c.verify_mode = False, ssl.CERT_NONE
    with dial(a) as s, c.wrap_socket(s, server_hostname=a.get("sni")) as t:
        t.sendall(b"GET / HTTP/1.1\r\nHost: inside\r\nConnection: close\r\n\r\n")
        got = b""
        while piece := t.recv(65536):
            got += piece
        return "ok " + text(got.split(b"\r\n\r\n", 1)[1])


def udp(a):
    to = socket.getaddrinfo(a["to"], None, socket.AF_INET)[0][4][0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(a.get("timeout", 3))
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        s.connect((to, a["port"]))
        data = b"x" * a.get("size", 5)
        s.send(data)
        return "ok" if s.recv(65536) == data else "changed"


def ping(a):
    to = socket.getaddrinfo(a["to"], None, socket.AF_INET)[0][4][0]
    r = subprocess.run(["ping", "-c", "1", "-W", "2", to], capture_output=True)
    return "ok" if r.returncode == 0 else "timeout"


def resolve(a):
    family = socket.AF_INET6 if a.get("v6") else socket.AF_INET
    return "ok " + " ".join(sorted({i[4][0] for i in socket.getaddrinfo(a["to"], None, family)}))


def dns(a):
    """One query to a server of its own choice: the code, and the addresses or the number of answers."""
    q = struct.pack(">HHHHHH", 4242, 0x100, 1, 0, 0, 0)
    for label in a["name"].split("."):
        q += bytes([len(label)]) + label.encode()
    q += b"\0" + struct.pack(">HH", {"A": 1, "TXT": 16, "AAAA": 28}[a.get("type", "A")], 1)
    kind = socket.SOCK_STREAM if a.get("stream") else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as s:
        s.settimeout(a.get("timeout", 5))
        s.connect((a["to"], a.get("port", 53)))
        if a.get("stream"):
            s.sendall(struct.pack(">H", len(q)) + q)
            size = struct.unpack(">H", s.recv(2, socket.MSG_WAITALL))[0]
            m = s.recv(size, socket.MSG_WAITALL)
        else:
            s.send(q)
            m = s.recv(65536)
    _, flags, _, answers = struct.unpack(">HHHH", m[:8])
    last = ".".join(str(b) for b in m[-4:]) if answers and a.get("type", "A") == "A" else str(answers)
    return "ok rcode %d %s" % (flags & 15, last)


def raw(a):
    """A whole IPv4 packet, as only root can send them."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as s:
            s.sendto(base64.b64decode(a["send"][0]), (a["to"], 0))
    except OSError:
        pass
    return "sent"


def curl(a):
    r = subprocess.run(["curl", "-sk", "--max-time", "8"] + a["args"], capture_output=True)
    words = {0: "ok " + text(r.stdout), 6: "noname", 7: "refused", 28: "timeout", 35: "reset", 52: "reset", 56: "reset"}
    return words.get(r.returncode, "error curl %d" % r.returncode)


KINDS = {f.__name__: f for f in (tcp, tls, udp, ping, resolve, dns, raw, curl)}


def attempt(a):
    try:
        return KINDS[a["kind"]](a)
    except EOFError:
        return "eof"
    except Exception as e:
        return word(e)


attempts = json.load(sys.stdin)
with ThreadPoolExecutor(24) as pool:
    print(json.dumps(list(pool.map(attempt, attempts))))
