/* How libzmq accepts connections: without ending the process when it has no descriptor left.
 *
 * libzmq's listeners abort on errors that they do not expect, EMFILE among them for Unix sockets. And a connection that cannot be accepted
 * stays at the head of the queue, so that the thread of all connections would do nothing but try again. So one descriptor is kept
 * in reserve, from the program's start: it is given up for as long as it takes to accept that connection and to close it, whereupon
 * its other end may try again later. */
#undef accept4
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/socket.h>
#include <unistd.h>

static int reserve = -1;

__attribute__((constructor)) static void keep_reserve(void)
{
    int fresh = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (fresh >= 0 && fresh < 3) {
        /* Where the program was started without them, these are for its standard streams. */
        int low = fresh;
        fresh = fcntl(low, F_DUPFD_CLOEXEC, 3);
        close(low);
    }
    int old = __atomic_exchange_n(&reserve, fresh, __ATOMIC_ACQ_REL);
    if (old != -1)
        close(old);
}

int zmq_sys_accept4(int listener, struct sockaddr *address, socklen_t *length, int flags)
{
    int accepted = accept4(listener, address, length, flags);
    if (accepted != -1)
        return accepted;
    if (errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM)
        return -1;
    int spare = __atomic_exchange_n(&reserve, -1, __ATOMIC_ACQ_REL);
    if (spare != -1) {
        close(spare);
        int refused = accept4(listener, NULL, NULL, flags);
        if (refused != -1)
            close(refused);
    } else {
        /* Somebody was faster and has it now: better slow than busy. */
        usleep(10000);
    }
    keep_reserve();
    /* One that both kinds of listener take for "not now". */
    errno = ENFILE;
    return -1;
}
