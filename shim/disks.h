// The disks of a cell: as descriptors of its host, or opened by path when it is started by hand.
#pragma once

#include "control.h"
#include "image.h"
#include "machine.h"
#include "options.h"
#include "serve.h"

/**
 * Gives each block device of the machine its disk, checked and locked, and io_uring to those that
 * want it. `files`: the descriptors that came with the image.
 */
int disks_add(struct machine *machine, struct server *server, const struct image *image,
              const int *files, const struct options *options, const struct control *control,
              struct failure *failure);
