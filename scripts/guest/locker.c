/* Takes a lock on a file and holds it: for tests of locks between NFS clients.
 *   locker fcntl|flock try FILE         exit 0: it was free; 3: somebody has it
 *   locker fcntl|flock hold FILE UNTIL  holds it, appending a synced line a second to FILE, until the file UNTIL exists.
 *                                       Says "locked" when it has it. Exit 4: a write failed under the lock.
 * Byte range locks are of the first 100 bytes. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static int lock(int fd, const char *kind) {
  if (strcmp(kind, "flock") == 0) return flock(fd, LOCK_EX | LOCK_NB);
  struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 100};
  return fcntl(fd, F_SETLK, &range);
}

int main(int count, char **arguments) {
  if (count < 4) return 2;
  int fd = open(arguments[3], O_RDWR | O_CREAT | O_APPEND, 0666);
  if (fd < 0) {
    perror(arguments[3]);
    return 2;
  }
  if (lock(fd, arguments[1]) != 0) {
    int held = errno == EAGAIN || errno == EACCES || errno == EWOULDBLOCK;
    if (!held) perror("lock");
    return held ? 3 : 2;
  }
  if (strcmp(arguments[2], "hold") != 0) return 0;
  puts("locked");
  fflush(stdout);
  for (long line = 0; access(arguments[4], F_OK) != 0; ++line) {
    if (dprintf(fd, "line %ld\n", line) < 0 || fsync(fd) != 0) {
      printf("lost: %s\n", strerror(errno));
      return 4;
    }
    sleep(1);
  }
  return 0;
}
