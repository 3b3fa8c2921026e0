/* A closed-loop HTTP/1.1 load generator: so many connections, each sends its next request when its reply is whole.

       load PORT CONNECTIONS SECONDS < REQUEST

   REQUEST is one whole HTTP request, sent as it is. Replies may have a length or come in chunks. At the end one JSON line
   tells the requests answered with 200 and with anything else, those that broke off, and in milliseconds the times to
   the first byte of a reply's body and to its end (p50, p90, p99, max). Only what ends within the time counts as answered;
   what is late is told apart, and what is unfinished after five seconds more. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define GRACE_S 5

typedef enum { HEAD, LENGTH, CHUNK_SIZE, CHUNK, CHUNK_END, LAST_END } State;

typedef struct {
    int fd, is_open;
    size_t sent;
    State state;
    int status, is_first_told;
    char line[8192]; /* a header or a chunk's size, while it comes */
    size_t n_line, left;
    int is_chunked;
    int64_t began_ns, first_ns;
} Conn;

typedef struct {
    float *ms;
    size_t n, cap;
} Times;

static char *request;
static size_t n_request;
static int epoll_fd, port, is_over;
static unsigned long n_ok, n_other, n_late, n_broken, n_unconnected;
static long n_busy;
static Times firsts, wholes;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void keep(Times *times, int64_t ns) {
    if (times->n == times->cap) {
        times->cap = times->cap ? 2 * times->cap : 65536;
        if (!(times->ms = realloc(times->ms, times->cap * sizeof *times->ms))) abort();
    }
    times->ms[times->n++] = ns / 1e6f;
}

static void send_on(Conn *c) {
    while (c->sent < n_request) {
        ssize_t n = send(c->fd, request + c->sent, n_request - c->sent, MSG_NOSIGNAL);
        if (n < 0) break;
        c->sent += n;
    }
    struct epoll_event e = {.events = EPOLLIN | (c->sent < n_request ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
}

static void begin(Conn *c) {
    c->sent = 0, c->state = HEAD, c->status = 0, c->n_line = 0, c->left = 0, c->is_chunked = 0, c->is_first_told = 0;
    c->began_ns = now_ns();
    n_busy++;
    send_on(c);
}

static void open_one(Conn *c) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (void *)&a, sizeof a)) {
        n_unconnected++;
        close(c->fd);
        c->is_open = 0;
        return;
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &e);
    c->is_open = 1;
    begin(c);
}

static void end(Conn *c) {
    n_busy--;
    if (is_over) {
        if (c->status == 200) n_late++;
        else n_other++;
    } else {
        int64_t now = now_ns();
        if (c->status == 200) n_ok++;
        else n_other++;
        keep(&wholes, now - c->began_ns);
        if (c->is_first_told) keep(&firsts, c->first_ns - c->began_ns);
        begin(c);
    }
}

static void break_off(Conn *c) {
    n_busy--;
    close(c->fd);
    c->is_open = 0;
    if (!is_over) n_broken++, open_one(c);
}

static void first_byte(Conn *c) {
    if (!c->is_first_told) c->is_first_told = 1, c->first_ns = now_ns();
}

/* A whole line, without its end; whether the reply is whole with it. */
static int line(Conn *c) {
    if (c->state == HEAD) {
        if (!c->status) c->status = c->n_line > 9 ? atoi(c->line + 9) : -1;
        else if (!strncasecmp(c->line, "content-length:", 15)) c->left = strtoul(c->line + 15, NULL, 10);
        else if (!strncasecmp(c->line, "transfer-encoding:", 18)) c->is_chunked = 1;
        else if (!c->n_line) {
            c->state = c->is_chunked ? CHUNK_SIZE : LENGTH;
            return !c->is_chunked && !c->left;
        }
    } else if (c->state == CHUNK_SIZE) {
        c->left = strtoul(c->line, NULL, 16);
        c->state = c->left ? CHUNK : LAST_END;
    } else if (c->state == CHUNK_END) {
        c->state = CHUNK_SIZE;
    } else if (c->state == LAST_END) {
        return !c->n_line; /* after the trailers, if any */
    }
    return 0;
}

static int eat(Conn *c, const char *data, size_t n) {
    for (size_t k = 0; k < n;) {
        if (c->state == LENGTH || c->state == CHUNK) {
            size_t part = n - k < c->left ? n - k : c->left;
            first_byte(c);
            c->left -= part, k += part;
            if (!c->left && c->state == LENGTH) return 1;
            if (!c->left) c->state = CHUNK_END;
        } else if (data[k] == '\n') {
            k++;
            if (c->n_line && c->line[c->n_line - 1] == '\r') c->n_line--;
            c->line[c->n_line] = 0;
            int is_whole = line(c);
            c->n_line = 0;
            if (is_whole) return 1;
        } else if (c->n_line < sizeof c->line - 1) {
            c->line[c->n_line++] = data[k++];
        } else {
            k++;
        }
    }
    return 0;
}

static void readable(Conn *c) {
    static char data[256 * 1024];
    ssize_t n = recv(c->fd, data, sizeof data, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) break_off(c);
    else if (eat(c, data, n)) end(c);
}

static int by_size(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void tell(const char *name, Times *t) {
    qsort(t->ms, t->n, sizeof *t->ms, by_size);
    if (!t->n) {
        printf(", \"%s_ms\": null", name);
        return;
    }
    printf(", \"%s_ms\": {\"p50\": %.3f, \"p90\": %.3f, \"p99\": %.3f, \"max\": %.3f}", name, t->ms[t->n / 2],
           t->ms[t->n * 9 / 10], t->ms[t->n * 99 / 100], t->ms[t->n - 1]);
}

static void read_request(void) {
    size_t cap = 1 << 16;
    request = malloc(cap);
    for (size_t n; (n = fread(request + n_request, 1, cap - n_request, stdin)) > 0;)
        if ((n_request += n) == cap) request = realloc(request, cap *= 2);
}

int main(int argc, char **argv) {
    if (argc != 4) return fprintf(stderr, "load PORT CONNECTIONS SECONDS < REQUEST\n"), 2;
    port = atoi(argv[1]);
    int n_conns = atoi(argv[2]);
    read_request();
    epoll_fd = epoll_create1(0);
    Conn *conns = calloc(n_conns, sizeof *conns);
    struct epoll_event ready[1024];
    int64_t began = now_ns(), ends = began + (int64_t)(atof(argv[3]) * 1e9), last = ends + GRACE_S * 1000000000LL;
    for (int k = 0; k < n_conns; k++) open_one(&conns[k]);
    while (now_ns() < last && n_busy > 0) {
        int n = epoll_wait(epoll_fd, ready, 1024, 20);
        if (!is_over && now_ns() >= ends) is_over = 1;
        for (int k = 0; k < n; k++) {
            Conn *c = ready[k].data.ptr;
            if (c->is_open && ready[k].events & EPOLLOUT) send_on(c);
            if (c->is_open && ready[k].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(c);
        }
    }
    double seconds = ((is_over ? ends : now_ns()) - began) / 1e9;
    printf("{\"ok\": %lu, \"late\": %lu, \"other\": %lu, \"broken\": %lu, \"unconnected\": %lu, \"unfinished\": %ld, \"seconds\": %.3f, "
           "\"per_second\": %.1f",
           n_ok, n_late, n_other, n_broken, n_unconnected, n_busy, seconds, n_ok / seconds);
    tell("first", &firsts), tell("whole", &wholes);
    puts("}");
    return 0;
}
