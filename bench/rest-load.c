/* Requests to the manager, one after the other on one connection, and how long each took:
 *   rest-load HOST PORT RATE < REQUESTS
 * A request is a line "METHOD PATH BODY"; RATE is how many begin in a second at most, 0: each when the one before is
 * answered. Prints a line "STATUS MICROSECONDS" for each. A client without a runtime of its own: what it measures is the manager. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

static char text[1 << 16]; /* of the answer */

static int64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void die(const char *what) {
  perror(what);
  exit(1);
}

static int connect_to(const char *host, const char *port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
  int fd = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
  if (fd < 0 || inet_pton(AF_INET, host, &address.sin_addr) != 1) die(host);
  if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) die("connect");
  if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes) < 0) die("TCP_NODELAY");
  return fd;
}

/* Reads one answer with a Content-Length, or in chunks of which the last one is empty. Returns its status. */
static int answer(int fd) {
  size_t have = 0;
  for (;;) {
    ssize_t got = read(fd, text + have, sizeof text - 1 - have);
    if (got <= 0) die("the manager hung up");
    have += (size_t)got;
    text[have] = 0;
    const char *body = strstr(text, "\r\n\r\n");
    if (!body) continue;
    body += 4;
    const char *length = strcasestr(text, "\r\ncontent-length:");
    size_t arrived = have - (size_t)(body - text);
    int whole = length && length < body ? arrived >= strtoul(length + 17, NULL, 10)
                                        : arrived >= 5 && strcmp(text + have - 5, "0\r\n\r\n") == 0;
    if (whole) return atoi(text + 9);
    if (have == sizeof text - 1) die("a long answer");
  }
}

int main(int count, char **words) {
  if (count != 4) {
    fprintf(stderr, "usage: rest-load HOST PORT RATE < REQUESTS\n");
    return 2;
  }
  int fd = connect_to(words[1], words[2]);
  double rate = atof(words[3]);
  static char line[4096], request[8192];
  int64_t began = now();
  for (int64_t sent = 0; fgets(line, sizeof line, stdin); sent++) {
    char method[16], path[2048];
    int at = 0;
    line[strcspn(line, "\n")] = 0;
    if (sscanf(line, "%15s %2047s %n", method, path, &at) != 2 || at == 0) die("a request without a body");
    int length = snprintf(request, sizeof request,
                          "%s %s HTTP/1.1\r\nhost: %s\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s",
                          method, path, words[1], strlen(line + at), line + at);
    int64_t due = rate > 0 ? began + (int64_t)((double)sent * 1e9 / rate) : 0;
    struct timespec until = {due / 1000000000, due % 1000000000};
    if (due > now()) clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    int64_t start = now();
    if (write(fd, request, (size_t)length) != length) die("write");
    int status = answer(fd);
    printf("%d %lld\n", status, (long long)(now() - start) / 1000);
  }
  return 0;
}
