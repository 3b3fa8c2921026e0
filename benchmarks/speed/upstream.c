/* A very cheap model server: one thread, epoll, answers of a chat completion or its stream, after a delay.

       upstream PORT

   Answers end in \boxed{X}; X is drawn from a seeded distribution, so a vote has something to decide. A request with
   "stream":true is answered with n_events content chunks; "n":8 with so many choices.
   POST /behave, four numbers: delay_ms n_events event_delay_ms mode, forgets all counters and from then on behaves so:
       mode 0  as above
       mode 1  X is 3 7 3 7 7 3 7 7, over again: the first answer is not that of the majority, which is 7
       mode 2  chat: no answer in it; n_events tokens and up to as many more, drawn, one every event_delay_ms
   GET /v1/models lists `model`; GET /last is the body of the last completion asked for (the first 64 KiB);
   GET /counters tells {"requests", "finished", "aborted", "running", "tokens"}. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_FD 65536
#define MAX_REQUEST (8 << 20)
#define N_TOKENS 18 /* of a plain answer */

typedef struct {
    int fd;             /* -1: closed */
    char *in;           /* what has come of a request */
    size_t n_in, cap_in;
    char *out;          /* what has not left yet of a reply */
    size_t n_out, sent, cap_out;
    int is_waiting;     /* for its delay */
    int is_stream, n_choices, event, n_tokens; /* of the reply under way */
    unsigned generation; /* told apart from who had this descriptor before */
} Conn;

typedef struct {
    int64_t at_ns;
    int fd;
    unsigned generation;
} Timer;

typedef struct { /* one delay's timers fall due in the order in which they were set */
    Timer *ring;
    size_t head, count, cap;
    int64_t delay_ns;
} Queue;

static Conn conns[MAX_FD];
static Queue first, following;
static int epoll_fd, n_events = 17;
static enum { DRAWN, SEQUENCE, CHAT } mode;
static unsigned long long n_requests, n_finished, n_aborted, n_answers, n_tokens;
static long n_running;
static uint64_t draw_state;
static char last[64 * 1024];
static size_t n_last;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static unsigned draw(unsigned below) {
    draw_state ^= draw_state << 13, draw_state ^= draw_state >> 7, draw_state ^= draw_state << 17;
    return draw_state % below;
}

static int draw_answer(void) {
    static const int sequence[] = {3, 7, 3, 7, 7, 3, 7, 7};
    if (mode == SEQUENCE) return sequence[n_answers++ % 8];
    unsigned u = draw(100);
    return u < 55 ? 7 : (int)(u % 10);
}

static void *grown(void *data, size_t *cap, size_t wanted) {
    if (wanted <= *cap) return data;
    size_t cap_new = *cap ? *cap : 4096;
    while (cap_new < wanted) cap_new *= 2;
    if (!(data = realloc(data, cap_new))) abort();
    *cap = cap_new;
    return data;
}

static void put(Conn *c, const char *data, size_t n) {
    c->out = grown(c->out, &c->cap_out, c->n_out + n);
    memcpy(c->out + c->n_out, data, n);
    c->n_out += n;
}

static void queue_push(Queue *q, int fd) {
    if (q->count == q->cap) {
        size_t cap = q->cap ? 2 * q->cap : 1024;
        Timer *ring = malloc(cap * sizeof *ring);
        if (!ring) abort();
        for (size_t k = 0; k < q->count; k++) ring[k] = q->ring[(q->head + k) % (q->cap ? q->cap : 1)];
        free(q->ring);
        q->ring = ring, q->cap = cap, q->head = 0;
    }
    Timer *t = &q->ring[(q->head + q->count++) % q->cap];
    t->at_ns = now_ns() + q->delay_ns, t->fd = fd, t->generation = conns[fd].generation;
}

static void shut(Conn *c) {
    if (c->fd < 0) return;
    if (c->is_waiting) n_aborted++, n_running--;
    epoll_ctl(epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
    close(c->fd);
    c->fd = -1, c->n_in = c->n_out = c->sent = 0, c->is_waiting = 0;
    c->generation++;
}

static void watch(Conn *c, uint32_t events) {
    struct epoll_event e = {.events = events, .data.fd = c->fd};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
}

static void flush(Conn *c) {
    while (c->sent < c->n_out) {
        ssize_t n = send(c->fd, c->out + c->sent, c->n_out - c->sent, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN) watch(c, EPOLLIN | EPOLLRDHUP | EPOLLOUT);
            else shut(c);
            return;
        }
        c->sent += n;
    }
    c->n_out = c->sent = 0;
}

static void put_json(Conn *c, const char *body, size_t n) {
    char head[160];
    int n_head = snprintf(head, sizeof head,
                          "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", n);
    put(c, head, n_head);
    put(c, body, n);
}

static void put_chunk(Conn *c, const char *data, size_t n) {
    char size[16];
    put(c, size, snprintf(size, sizeof size, "%zx\r\n", n));
    put(c, data, n);
    put(c, "\r\n", 2);
}

static void answer_whole(Conn *c) {
    static char body[64 * 1024];
    int n = snprintf(body, sizeof body,
                     "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"model\",\"choices\":[");
    for (int k = 0; k < c->n_choices; k++)
        n += snprintf(body + n, sizeof body - n,
                      "%s{\"index\":%d,\"message\":{\"role\":\"assistant\",\"content\":\"Three and four make seven, so "
                      "the answer is \\\\boxed{%d}.\"},\"logprobs\":null,\"finish_reason\":\"stop\"}",
                      k ? "," : "", k, draw_answer());
    n += snprintf(body + n, sizeof body - n,
                  "],\"usage\":{\"prompt_tokens\":40,\"completion_tokens\":%d,\"total_tokens\":%d}}",
                  N_TOKENS * c->n_choices, 40 + N_TOKENS * c->n_choices);
    n_tokens += N_TOKENS * c->n_choices;
    put_json(c, body, n);
}

static void answer_chat(Conn *c) {
    char body[600];
    int n = snprintf(body, sizeof body,
                     "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"model\",\"choices\":["
                     "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"It was a quiet morning, and the fog lay "
                     "on the meadows until the sun came through.\"},\"logprobs\":null,\"finish_reason\":\"stop\"}],"
                     "\"usage\":{\"prompt_tokens\":40,\"completion_tokens\":%d,\"total_tokens\":%d}}",
                     c->n_tokens, 40 + c->n_tokens);
    put_json(c, body, n);
}

static void put_event(Conn *c, const char *delta, const char *finish) {
    char event[512];
    int n = snprintf(event, sizeof event,
                     "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"model\","
                     "\"choices\":[{\"index\":0,\"delta\":{%s},\"logprobs\":null,\"finish_reason\":%s}]}\n\n",
                     delta, finish);
    put_chunk(c, event, n);
}

/* One event of a stream; whether it was the last. */
static int answer_event(Conn *c) {
    static const char head[] =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    char delta[64];
    if (c->event == 0) put(c, head, sizeof head - 1);
    if (c->event < n_events) {
        if (c->event + 1 < n_events) snprintf(delta, sizeof delta, "\"content\":\"word %d \"", c->event);
        else snprintf(delta, sizeof delta, "\"content\":\"\\\\boxed{%d}\"", draw_answer());
        put_event(c, delta, "null");
        c->event++, n_tokens++;
        return 0;
    }
    put_event(c, "", "\"stop\"");
    put_chunk(c, "data: [DONE]\n\n", 14);
    put(c, "0\r\n\r\n", 5);
    return 1;
}

static void finish(Conn *c) {
    n_finished++, n_running--;
    c->is_waiting = 0;
    flush(c);
}

static void go_on(Conn *c) {
    if (!c->is_stream && mode == CHAT && c->event < c->n_tokens) {
        c->event++, n_tokens++;
        queue_push(&following, c->fd);
        return;
    }
    if (!c->is_stream) {
        if (mode == CHAT) answer_chat(c);
        else answer_whole(c);
        finish(c);
        return;
    }
    do {
        if (answer_event(c)) {
            finish(c);
            return;
        }
        if (following.delay_ns) {
            flush(c);
            if (c->fd >= 0) queue_push(&following, c->fd);
            return;
        }
        flush(c); /* an event, a write: as a server that streams does */
    } while (c->fd >= 0);
}

static void told(Conn *c, const char *text) { put_json(c, text, strlen(text)), flush(c); }

static void tell_counters(Conn *c) {
    char text[200];
    snprintf(text, sizeof text, "{\"requests\":%llu,\"finished\":%llu,\"aborted\":%llu,\"running\":%ld,\"tokens\":%llu}",
             n_requests, n_finished, n_aborted, n_running, n_tokens);
    told(c, text);
}

static void behave(Conn *c, const char *body, size_t n_body) {
    char text[100] = "";
    double delay_ms, event_delay_ms;
    int events, how;
    memcpy(text, body, n_body < sizeof text ? n_body : sizeof text - 1);
    if (n_running) {
        told(c, "{\"is_busy\": true}"); /* a queue's delay must not change under its timers */
    } else if (sscanf(text, "%lf %d %lf %d", &delay_ms, &events, &event_delay_ms, &how) != 4) {
        told(c, "{\"is_wrong\": true}");
    } else {
        first.delay_ns = delay_ms * 1e6, following.delay_ns = event_delay_ms * 1e6, n_events = events, mode = how;
        n_requests = n_finished = n_aborted = n_answers = n_tokens = n_last = 0;
        draw_state = 88172645463325252ULL;
        first.count = following.count = 0; /* what is left are timers of those who have gone */
        told(c, "{}");
    }
}

static void complete(Conn *c, const char *body, size_t n_body) {
    n_requests++, n_running++;
    memcpy(last, body, n_last = n_body < sizeof last ? n_body : sizeof last);
    c->is_waiting = 1, c->event = 0;
    c->is_stream = memmem(body, n_body, "\"stream\":true", 13) || memmem(body, n_body, "\"stream\": true", 14);
    const char *n = memmem(body, n_body, "\"n\":", 4);
    c->n_choices = n ? atoi(n + 4) : 1;
    if (c->n_choices < 1 || c->n_choices > 64) c->n_choices = 1;
    c->n_tokens = mode == CHAT ? n_events + (int)draw(n_events + 1) : 0;
    if (first.delay_ns) queue_push(&first, c->fd);
    else go_on(c);
}

static void serve(Conn *c, const char *head, const char *body, size_t n_body) {
    if (!strncmp(head, "GET /counters", 13)) tell_counters(c);
    else if (!strncmp(head, "GET /last", 9)) put_json(c, last, n_last), flush(c);
    else if (!strncmp(head, "POST /behave", 12)) behave(c, body, n_body);
    else if (!strncmp(head, "GET ", 4))
        told(c, "{\"object\":\"list\",\"data\":[{\"id\":\"model\",\"object\":\"model\",\"owned_by\":\"bench\"}]}");
    else complete(c, body, n_body);
}

/* Takes every whole request that has come; a client that sends the next one early waits for its turn. */
static void take(Conn *c) {
    while (c->fd >= 0 && !c->is_waiting && c->n_in) {
        char *end = memmem(c->in, c->n_in, "\r\n\r\n", 4);
        if (!end) return;
        size_t n_head = end + 4 - c->in, n_body = 0;
        for (char *line = c->in; line < end; line = (char *)memchr(line, '\n', end + 2 - line) + 1)
            if (!strncasecmp(line, "content-length:", 15)) n_body = strtoul(line + 15, NULL, 10);
        if (c->n_in < n_head + n_body) return;
        serve(c, c->in, c->in + n_head, n_body);
        if (c->fd < 0) return;
        c->n_in -= n_head + n_body;
        memmove(c->in, c->in + n_head + n_body, c->n_in);
    }
}

static void readable(Conn *c) {
    for (;;) {
        c->in = grown(c->in, &c->cap_in, c->n_in + 16384);
        ssize_t n = recv(c->fd, c->in + c->n_in, c->cap_in - c->n_in, 0);
        if (n > 0) c->n_in += n;
        if (n == 0 || (n < 0 && errno != EAGAIN) || c->n_in > MAX_REQUEST) {
            shut(c);
            return;
        }
        if (n < 0 || c->n_in < c->cap_in) break;
    }
    take(c);
}

static void run_due(Queue *q, int64_t now) {
    while (q->count && q->ring[q->head].at_ns <= now) {
        Timer t = q->ring[q->head];
        q->head = (q->head + 1) % q->cap, q->count--;
        Conn *c = &conns[t.fd];
        if (c->fd == t.fd && c->generation == t.generation) go_on(c), take(c);
    }
}

static int wait_ms(int64_t now) {
    int64_t at = INT64_MAX;
    if (first.count) at = first.ring[first.head].at_ns;
    if (following.count && following.ring[following.head].at_ns < at) at = following.ring[following.head].at_ns;
    if (at == INT64_MAX) return -1;
    return at <= now ? 0 : (int)((at - now + 999999) / 1000000);
}

static int listening_on(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (void *)&a, sizeof a) || listen(fd, 4096)) {
        perror("upstream");
        exit(1);
    }
    return fd;
}

static void accept_all(int listener) {
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if (fd >= MAX_FD) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        conns[fd].fd = fd;
        struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP, .data.fd = fd};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e);
    }
}

int main(int argc, char **argv) {
    if (argc != 2) return fprintf(stderr, "upstream PORT\n"), 2;
    draw_state = 88172645463325252ULL;
    signal(SIGPIPE, SIG_IGN);
    for (int fd = 0; fd < MAX_FD; fd++) conns[fd].fd = -1;
    epoll_fd = epoll_create1(0);
    int listener = listening_on(atoi(argv[1]));
    struct epoll_event e = {.events = EPOLLIN, .data.fd = listener}, ready[1024];
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &e);
    for (;;) {
        int n = epoll_wait(epoll_fd, ready, 1024, wait_ms(now_ns()));
        for (int k = 0; k < n; k++) {
            Conn *c = &conns[ready[k].data.fd];
            if (ready[k].data.fd == listener) accept_all(listener);
            else if (c->fd < 0) continue;
            else if (ready[k].events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP)) shut(c);
            else {
                if (ready[k].events & EPOLLOUT) watch(c, EPOLLIN | EPOLLRDHUP), flush(c);
                if (c->fd >= 0 && ready[k].events & EPOLLIN) readable(c);
            }
        }
        int64_t now = now_ns();
        run_due(&first, now), run_due(&following, now);
    }
}
