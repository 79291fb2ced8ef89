// A cable between two network namespaces that delays and loses frames as it is told; for kernels without netem.
//
//   wire NETNS_A DEVICE_A NETNS_B DEVICE_B        NETNS: a path such as /run/netns/host1
//
// Makes a tap device at each end and carries frames between them, both ways alike, in order. Lines of standard input
// say how: "DELAY_MS LOSS_PER_MILLE". Before the first line it is perfect. It ends with its standard input.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { kFrameMax = 2048, kWaitingMax = 8192 };

struct Frame {
  int64_t due_ms;
  int length;
  char bytes[kFrameMax];
};

// Frames on their way in one direction: a ring. What does not fit is lost, as on a real line.
struct Way {
  int from, to;
  unsigned first, count;
  struct Frame *frames;
};

static int delay_ms, loss_per_mille;

static int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static int fail(const char *what) {
  fprintf(stderr, "wire: %s: %s\n", what, strerror(errno));
  exit(1);
}

// A device stays in the namespace in which it was made; only this process moves on.
static int open_tap(const char *space, const char *name) {
  int entered = open(space, O_RDONLY | O_CLOEXEC);
  if (entered < 0 || setns(entered, CLONE_NEWNET) != 0) fail(space);
  close(entered);
  int tap = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  struct ifreq request;
  memset(&request, 0, sizeof request);
  request.ifr_flags = IFF_TAP | IFF_NO_PI;
  snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
  if (tap < 0 || ioctl(tap, TUNSETIFF, &request) != 0) fail(name);
  return tap;
}

// EIO: the other end is not up yet. EAGAIN: its queue is full.
static void put(struct Way *way, const struct Frame *frame) {
  ssize_t written = write(way->to, frame->bytes, (size_t)frame->length);
  if (written < 0 && errno != EIO && errno != EAGAIN) fail("write");
}

static void take(struct Way *way) {
  struct Frame frame;
  while ((frame.length = (int)read(way->from, frame.bytes, kFrameMax)) > 0) {
    if (rand() % 1000 < loss_per_mille || way->count == kWaitingMax) continue;
    frame.due_ms = now_ms() + delay_ms;
    if (delay_ms == 0 && way->count == 0) {
      put(way, &frame);
      continue;
    }
    memcpy(&way->frames[(way->first + way->count++) % kWaitingMax], &frame, sizeof frame);
  }
}

// Gives what is due; returns how long the next one waits, -1 when there is none.
static int give(struct Way *way) {
  while (way->count > 0) {
    struct Frame *frame = &way->frames[way->first];
    int64_t wait = frame->due_ms - now_ms();
    if (wait > 0) return (int)wait;
    put(way, frame);
    way->first = (way->first + 1) % kWaitingMax;
    way->count--;
  }
  return -1;
}

static int sooner(int a, int b) { return a < 0 ? b : b < 0 || a < b ? a : b; }

int main(int argc, char **argv) {
  if (argc != 5) {
    fprintf(stderr, "usage: wire NETNS_A DEVICE_A NETNS_B DEVICE_B\n");
    return 2;
  }
  int a = open_tap(argv[1], argv[2]);
  int b = open_tap(argv[3], argv[4]);
  struct Way ways[2] = {{a, b, 0, 0, calloc(kWaitingMax, sizeof(struct Frame))},
                        {b, a, 0, 0, calloc(kWaitingMax, sizeof(struct Frame))}};
  if (ways[0].frames == NULL || ways[1].frames == NULL) fail("memory");
  puts("ready");
  fflush(stdout);
  for (;;) {
    int wait = sooner(give(&ways[0]), give(&ways[1]));
    struct pollfd events[3] = {{a, POLLIN, 0}, {b, POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
    if (poll(events, 3, wait) < 0) fail("poll");
    if (events[2].revents != 0) {
      char line[64];
      ssize_t length = read(STDIN_FILENO, line, sizeof line - 1);
      if (length <= 0) return 0;
      line[length] = 0;
      if (sscanf(line, "%d %d", &delay_ms, &loss_per_mille) != 2) fail("standard input");
    }
    if (events[0].revents & POLLIN) take(&ways[0]);
    if (events[1].revents & POLLIN) take(&ways[1]);
  }
}
