/* A closed-loop HTTP/1.1 load generator: so many connections, each sends its next request when its reply is whole.

       load PORT CONNECTIONS SECONDS [EACH RAMP_S] < REQUEST

   REQUEST is one whole HTTP request, sent as it is. Replies may have a length or come in chunks. At the end one JSON line
   tells the requests answered with 200 and with anything else, those that broke off, streams that ended without their
   [DONE] (cut), and in milliseconds the times to the first byte of a reply's body and to its end (p50, p90, p99, max).
   Only what ends within the time makes the rate; what is late is told apart, and what is unfinished after ten seconds
   more. With EACH every connection sends so many requests, the first of them spread over RAMP_S, and the gaps
   between the arrivals of a body's parts are told, too. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define GRACE_S 10

typedef enum { HEAD, LENGTH, CHUNK_SIZE, CHUNK, CHUNK_END, LAST_END, TO_THE_END } State;

typedef struct {
    int fd, is_open;
    size_t sent;
    State state;
    int status, is_first_told;
    char line[8192]; /* a header or a chunk's size, while it comes */
    size_t n_line, left;
    int is_chunked, has_length, is_last, n_done; /* is_last: the server closes after it */
    char tail[8]; /* the last of the body */
    int64_t began_ns, first_ns, part_ns;
} Conn;

typedef struct {
    float *ms;
    size_t n, cap;
} Times;

static char *request;
static size_t n_request;
static int epoll_fd, port, is_over, is_stream, n_each;
static unsigned long n_ok, n_other, n_late, n_broken, n_unconnected, n_cut;
static long n_busy;
static Times firsts, wholes, gaps;

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
    c->has_length = 0, c->is_last = 0;
    memset(c->tail, 0, sizeof c->tail);
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
    n_busy--, c->n_done++;
    if (c->status != 200) n_other++;
    else if (is_stream && !memmem(c->tail, sizeof c->tail, "[DONE]", 6)) n_cut++;
    else if (is_over) n_late++;
    else n_ok++;
    int is_more = !is_over && (!n_each || c->n_done < n_each);
    keep(&wholes, now_ns() - c->began_ns);
    if (c->is_first_told) keep(&firsts, c->first_ns - c->began_ns);
    if (is_more && !c->is_last) {
        begin(c);
        return;
    }
    close(c->fd);
    c->is_open = 0;
    if (is_more) open_one(c);
}

static void break_off(Conn *c) {
    n_busy--;
    close(c->fd);
    c->is_open = 0;
    if (!is_over) {
        n_broken++;
        if (!n_each) open_one(c);
    }
}

static void body_part(Conn *c, const char *data, size_t n) {
    if (!c->is_first_told) c->is_first_told = 1, c->first_ns = now_ns();
    size_t n_kept = n < sizeof c->tail ? sizeof c->tail - n : 0, n_new = sizeof c->tail - n_kept;
    memmove(c->tail, c->tail + n_new, n_kept);
    memcpy(c->tail + n_kept, data + n - n_new, n_new);
}

/* A whole line, without its end; whether the reply is whole with it. */
static int line(Conn *c) {
    if (c->state == HEAD) {
        if (!c->status) c->status = c->n_line > 9 ? atoi(c->line + 9) : -1, c->is_last = !strncmp(c->line, "HTTP/1.0", 8);
        else if (!strncasecmp(c->line, "content-length:", 15)) c->has_length = 1, c->left = strtoul(c->line + 15, NULL, 10);
        else if (!strncasecmp(c->line, "connection:", 11)) c->is_last = strcasestr(c->line, "close") != NULL;
        else if (!strncasecmp(c->line, "transfer-encoding:", 18)) c->is_chunked = 1;
        else if (!c->n_line) {
            c->state = c->is_chunked ? CHUNK_SIZE : c->has_length ? LENGTH : TO_THE_END;
            return c->state == LENGTH && !c->left;
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
        if (c->state == TO_THE_END) {
            body_part(c, data + k, n - k);
            return 0;
        } else if (c->state == LENGTH || c->state == CHUNK) {
            size_t part = n - k < c->left ? n - k : c->left;
            body_part(c, data + k, part);
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
    if (n <= 0) {
        if (!n && c->state == TO_THE_END) c->is_last = 1, end(c);
        else break_off(c);
        return;
    }
    int had_begun = c->is_first_told, is_whole = eat(c, data, n);
    if (n_each && c->is_first_told) {
        int64_t now = now_ns();
        if (had_begun) keep(&gaps, now - c->part_ns);
        c->part_ns = now;
    }
    if (is_whole) end(c);
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

static int open_due(Conn *conns, int n_open, int n_conns, double ramp_s, int64_t began) {
    double share = ramp_s > 0 ? (now_ns() - began) / 1e9 / ramp_s : 1;
    int due = share < 1 ? (int)(share * n_conns) : n_conns;
    while (n_open < due) open_one(&conns[n_open++]);
    return n_open;
}

static void tell_all(double seconds) {
    printf("{\"ok\": %lu, \"late\": %lu, \"other\": %lu, \"broken\": %lu, \"cut\": %lu, \"unconnected\": %lu, "
           "\"unfinished\": %ld, \"seconds\": %.3f, \"per_second\": %.1f",
           n_ok, n_late, n_other, n_broken, n_cut, n_unconnected, n_busy, seconds, n_ok / seconds);
    tell("first", &firsts), tell("whole", &wholes), tell("gap", &gaps);
    puts("}");
}

int main(int argc, char **argv) {
    if (argc != 4 && argc != 6) return fprintf(stderr, "load PORT CONNECTIONS SECONDS [EACH RAMP_S] < REQUEST\n"), 2;
    port = atoi(argv[1]);
    int n_conns = atoi(argv[2]), n_open = 0;
    double ramp_s = argc == 6 ? atof(argv[5]) : 0;
    n_each = argc == 6 ? atoi(argv[4]) : 0;
    read_request();
    is_stream = memmem(request, n_request, "\"stream\":true", 13) != NULL;
    epoll_fd = epoll_create1(0);
    Conn *conns = calloc(n_conns, sizeof *conns);
    struct epoll_event ready[1024];
    int64_t began = now_ns(), ends = began + (int64_t)(atof(argv[3]) * 1e9), last = ends + GRACE_S * 1000000000LL;
    while (now_ns() < last && (n_busy > 0 || n_open < n_conns)) {
        n_open = open_due(conns, n_open, is_over ? n_open : n_conns, ramp_s, began);
        if (is_over && !n_busy) break;
        int n = epoll_wait(epoll_fd, ready, 1024, n_open < n_conns ? 1 : 20);
        if (!is_over && now_ns() >= ends) is_over = 1;
        for (int k = 0; k < n; k++) {
            Conn *c = ready[k].data.ptr;
            if (c->is_open && ready[k].events & EPOLLOUT) send_on(c);
            if (c->is_open && ready[k].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(c);
        }
    }
    tell_all(((is_over ? ends : now_ns()) - began) / 1e9);
    return 0;
}
