/* Load on an NFS server through libnfs, so that no kernel client is needed:
 *   nfs-load URL read|write|randread|randwrite BLOCK DEPTH BYTES SECONDS [flush]
 *   nfs-load URL files COUNT      creates, stats and removes COUNT files, 8 at a time
 * Prints one line of JSON. Writes are acknowledged as the protocol does it: unstable, with a COMMIT at the end, which is inside
 * of the measured time; with "flush" after every write. One connection. URL as libnfs takes it; it names a folder. */
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <nfsc/libnfs.h>

static struct nfs_context *nfs;
static int in_flight;
static int failed;
static uint64_t completed;

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void die(const char *what) {
  fprintf(stderr, "nfs-load: %s: %s\n", what, nfs_get_error(nfs));
  exit(1);
}

static void serve(void) {
  struct pollfd fd = {.fd = nfs_get_fd(nfs), .events = (short)nfs_which_events(nfs)};
  if (poll(&fd, 1, 1000) < 0) die("poll");
  if (nfs_service(nfs, fd.revents) < 0) die("service");
}

static void done(int status, struct nfs_context *context, void *data, void *private_data) {
  (void)context;
  (void)private_data;
  --in_flight;
  if (status < 0) {
    fprintf(stderr, "nfs-load: %s\n", data ? (const char *)data : "an operation failed");
    failed = 1;
  }
  ++completed;
}

static void drain(int down_to) {
  while (in_flight > down_to && !failed) serve();
  if (failed) exit(1);
}

/* Every byte differs from round to round, and compresses badly. */
static void scramble(unsigned char *bytes, size_t count) {
  static uint64_t state = 88172645463325252ull;
  for (size_t i = 0; i + 8 <= count; i += 8) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    memcpy(bytes + i, &state, 8);
  }
}

static void io(const char *kind, uint64_t block, int depth, uint64_t bytes, double seconds, int flush) {
  struct nfsfh *file;
  int writes = strstr(kind, "write") != NULL;
  int random = strncmp(kind, "rand", 4) == 0;
  if (nfs_open(nfs, "/load", O_RDWR, &file) != 0 && nfs_creat(nfs, "/load", 0644, &file) != 0) die("open");
  unsigned char *data = malloc(block);
  scramble(data, block);
  uint64_t blocks = bytes / block;
  uint64_t next = 0;
  srand(7);
  double began = now();
  completed = 0;
  while (seconds > 0 ? now() - began < seconds : next < blocks) {
    uint64_t at = random ? (((uint64_t)rand() << 16) ^ (uint64_t)rand()) % blocks : next % blocks;
    ++next;
    ++in_flight;
    int started = writes ? nfs_pwrite_async(nfs, file, at * block, block, data, done, NULL)
                         : nfs_pread_async(nfs, file, at * block, block, done, NULL);
    if (started != 0) die("start");
    drain(depth - 1);
    if (flush && in_flight == 0 && nfs_fsync(nfs, file) != 0) die("commit");
  }
  drain(0);
  if (writes && nfs_fsync(nfs, file) != 0) die("commit");
  double took = now() - began;
  printf("{\"operations\":%llu,\"seconds\":%.6f,\"megabytesPerSecond\":%.3f}\n", (unsigned long long)completed, took,
         (double)completed * (double)block / took / 1e6);
  nfs_close(nfs, file);
}

enum { kFilesAtOnce = 8 };

typedef int (*start_one)(const char *path);

static void created(int status, struct nfs_context *context, void *data, void *private_data) {
  if (status >= 0) {
    ++in_flight;
    nfs_close_async(context, data, done, private_data);
    --completed;
  }
  done(status, context, data, private_data);
}

static int start_create(const char *path) { return nfs_create_async(nfs, path, O_CREAT | O_EXCL, 0644, created, NULL); }
static int start_stat(const char *path) { return nfs_stat64_async(nfs, path, done, NULL); }
static int start_unlink(const char *path) { return nfs_unlink_async(nfs, path, done, NULL); }

static double rate(start_one start, int count) {
  double began = now();
  for (int i = 0; i < count; ++i) {
    char path[64];
    snprintf(path, sizeof path, "/files/file-%06d", i);
    ++in_flight;
    if (start(path) != 0) die("start");
    drain(kFilesAtOnce - 1);
  }
  drain(0);
  return count / (now() - began);
}

static void files(int count) {
  (void)nfs_mkdir(nfs, "/files");
  double create = rate(start_create, count);
  double stat = rate(start_stat, count);
  double unlink = rate(start_unlink, count);
  printf("{\"createsPerSecond\":%.1f,\"statsPerSecond\":%.1f,\"unlinksPerSecond\":%.1f}\n", create, stat, unlink);
}

int main(int count, char **arguments) {
  if (count < 4) {
    fprintf(stderr, "usage: nfs-load URL read|write|randread|randwrite BLOCK DEPTH BYTES SECONDS [flush] | files COUNT\n");
    return 2;
  }
  nfs = nfs_init_context();
  struct nfs_url *url = nfs_parse_url_dir(nfs, arguments[1]);
  if (!url) die("URL");
  /* Whatever is read is asked for: no cache, no reading ahead. */
  nfs_set_pagecache(nfs, 0);
  nfs_set_readahead(nfs, 0);
  if (nfs_mount(nfs, url->server, url->path) != 0) die("mount");
  if (strcmp(arguments[2], "files") == 0) {
    files(atoi(arguments[3]));
  } else if (count >= 7) {
    io(arguments[2], strtoull(arguments[3], NULL, 10), atoi(arguments[4]), strtoull(arguments[5], NULL, 10),
       atof(arguments[6]), count > 7);
  } else {
    return 2;
  }
  nfs_destroy_context(nfs);
  return 0;
}
