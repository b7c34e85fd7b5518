/* A Lambda client as small as can be: takes one invocation, does what its payload says, answers. Linked statically. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int dial(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int sock = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(sock, (struct sockaddr *)&address, sizeof address) < 0) return -errno;
    return sock;
}

/* Sends a request and returns the answer, headers and body, in `answer`. */
static void call(const char *method, const char *path, const char *body, char *answer, size_t room) {
    static char request[65536];
    int sock = dial(atoi(strchr(getenv("AWS_LAMBDA_RUNTIME_API"), ':') + 1));
    int size = snprintf(request, sizeof request, "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
                        method, path, strlen(body), body);
    if (write(sock, request, size) != size) exit(3);
    size_t have = 0;
    for (ssize_t got; have < room - 1 && (got = read(sock, answer + have, room - 1 - have)) > 0;) have += got;
    answer[have] = 0;
    close(sock);
}

int main(void) {
    static char answer[65536], path[256], body[65536], id[64];
    call("GET", "/2018-06-01/runtime/invocation/next", "", answer, sizeof answer);
    char *found = strcasestr(answer, "lambda-runtime-aws-request-id: ");
    if (!found || sscanf(found + 31, "%63[^\r]", id) != 1) return 4;
    const char *payload = strstr(answer, "\r\n\r\n") + 4, *port = strstr(payload, "\"port\": ");
    if (strstr(payload, "\"segv\"")) *(volatile int *)0 = 1;
    if (strstr(payload, "\"spin\"")) for (;;);
    execl("/bin/sh", "sh", "-c", "id", (char *)0);
    int executed = errno, reached = port ? dial(atoi(port + 8)) : 0;
    int opened = fopen("/etc/passwd", "r") ? 0 : errno;
    snprintf(path, sizeof path, "/2018-06-01/runtime/invocation/%s/response", id);
    snprintf(body, sizeof body, "{\"payload\": %.4000s, \"exec\": %d, \"connect\": %d, \"open\": %d}", payload, executed, reached, opened);
    call("POST", path, body, answer, sizeof answer);
    return 0;
}
