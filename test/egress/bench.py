"""Measures one way out: bench.py ADDRESS CONNECTIONS MEBIBYTES. Prints milliseconds and MiB/s."""
import json, socket, statistics, sys, time

to, number, mebibytes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


def short():
    began = time.perf_counter()
    with socket.create_connection((to, 7)) as s:
        connected = time.perf_counter()
        s.sendall(b"x")
        s.recv(1)
        return 1e3 * (connected - began), 1e3 * (time.perf_counter() - began)


def download(buffer):
    began = time.perf_counter()
    with socket.create_connection((to, 19)) as s:
        s.sendall(b"%d\n" % (mebibytes << 20))
        left = mebibytes << 20
        while left:
            left -= s.recv_into(buffer)
    return mebibytes / (time.perf_counter() - began)


def upload(buffer):
    began = time.perf_counter()
    with socket.create_connection((to, 9)) as s:
        for _ in range((mebibytes << 20) // len(buffer)):
            s.sendall(buffer)
        s.shutdown(socket.SHUT_WR)
        s.recv(100)
    return mebibytes / (time.perf_counter() - began)


buffer = memoryview(bytearray(1 << 20))
times = [short() for _ in range(number)]
print(json.dumps({
    "connect": statistics.median(t[0] for t in times), "exchange": statistics.median(t[1] for t in times),
    "exchanges": sum(t[1] for t in times), "down": download(buffer), "up": upload(buffer),
}))
