"""Opens connections to an echo service, all at once: burst.py NUMBER ADDRESS. Prints how many ended how."""
import collections, json, resource, select, socket, sys, time

number, to = int(sys.argv[1]), sys.argv[2]
resource.setrlimit(resource.RLIMIT_NOFILE, (number + 1000, number + 1000))
poll, waiting, ends = select.epoll(), {}, collections.Counter()


def settle(timeout):
    for fd, event in poll.poll(timeout):
        s, state = waiting[fd]
        try:
            error = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, "")
            if state == "connecting":
                s.send(b"x")
                waiting[fd] = (s, "asking")
                poll.modify(fd, select.EPOLLIN)
                continue
            end = "echoed" if s.recv(1) == b"x" else "closed"
        except ConnectionRefusedError:
            end = "refused"
        except OSError as e:
            end = "reset" if isinstance(e, ConnectionError) else "error %s" % e.errno
        ends[end] += 1
        poll.unregister(fd)
        del waiting[fd]
        open_sockets.append(s)  # until the program ends


open_sockets = []
for i in range(number):
    s = socket.socket()
    s.setblocking(False)
    s.connect_ex((to, 7))
    waiting[s.fileno()] = (s, "connecting")
    poll.register(s, select.EPOLLOUT)
    if i % 200 == 0:
        settle(0)
deadline = time.time() + 40
while waiting and time.time() < deadline:
    settle(1)
ends["pending"] = len(waiting)
print(json.dumps(ends))
