// File locks. Calls fcntl(F_OFD_SETLK).
#include "lock.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

int lock_file(int fd, bool exclusive, struct failure *failure) {
  struct flock lock = {.l_type = exclusive ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET};
  if (fcntl(fd, F_OFD_SETLK, &lock) == 0) return 1;
  if (errno == EAGAIN || errno == EACCES) return 0;
  return fail_errno(failure, "F_OFD_SETLK");
}
