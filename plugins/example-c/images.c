/*
 * The verbs of images: plain files as large as the disks they are. No machine opens one, since a
 * process has no disks.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "verbs.h"

#define SECTOR 512
/* The unit of `st_blocks`, stat(2). */
#define STAT_BLOCK 512
#define MAX_SIZE INT64_MAX

/* Reads the path, and sees to it that the format is one this backend has; null where it failed. */
static char *image_path(struct call *call)
{
    char *path = string_param(call, "path");
    if (path && path[0] != '/')
        fail(call, VMAN_ERROR_INVALID, "the image %s: its path is not absolute", path);
    else if (path && !json_is(json_member(call->params, "format"), "raw"))
        fail(call, VMAN_ERROR_INVALID, "the image %s: this backend has the format raw alone", path);
    if (!call->code)
        return path;
    free(path);
    return NULL;
}

static bool size_param(struct call *call, const char *path, uint64_t *size)
{
    if (json_number(json_member(call->params, "virtual_size"), size) && *size != 0 &&
        *size % SECTOR == 0 && *size <= MAX_SIZE)
        return true;
    fail(call, VMAN_ERROR_INVALID, "the image %s: `virtual_size` is not a multiple of %d", path,
         SECTOR);
    return false;
}

static void fail_file(struct call *call, const char *path, const char *what, int error)
{
    fail(call, error == ENOENT ? VMAN_ERROR_NOT_FOUND : VMAN_ERROR_FAILED,
         "the image %s cannot be %s: %s", path, what, strerror(error));
}

/* Opens an image that is there; -1 where it failed. A symbolic link leads to nobody's image, and
   opening a pipe must wait for nobody. */
static int open_image(struct call *call, const char *path, const char *what, int mode,
                      struct stat *status)
{
    int file = open(path, mode | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (file < 0 || fstat(file, status) != 0) {
        fail_file(call, path, what, errno);
    } else if (!S_ISREG(status->st_mode)) {
        fail(call, VMAN_ERROR_CONFLICT, "the image %s cannot be %s: it is not a file", path, what);
    } else {
        return file;
    }
    if (file >= 0)
        close(file);
    return -1;
}

/* Puts a whole image in its place, or finds it there: `beside` is another name for it until then,
   so that an image is there wholly or not at all, whoever is killed when. */
static void create_beside(struct call *call, const char *path, const char *beside, uint64_t size)
{
    struct stat there;
    int file = -1;
    /* One that was left behind is in the way; no other operation makes this image. */
    if ((unlink(beside) != 0 && errno != ENOENT) ||
        (file = open(beside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600)) < 0 ||
        ftruncate(file, (off_t)size) != 0 || fsync(file) != 0) {
        /* A folder that is missing is no missing image. */
        fail(call, VMAN_ERROR_FAILED, "the image %s cannot be made: %s", path, strerror(errno));
    } else if (link(beside, path) != 0) {
        int error = errno, found = -1;
        if (error != EEXIST)
            fail_file(call, path, "made", error);
        else if ((found = open_image(call, path, "made", O_RDONLY, &there)) >= 0) {
            if ((uint64_t)there.st_size != size)
                fail(call, VMAN_ERROR_CONFLICT,
                     "the image %s is there already with %" PRIu64 " bytes; %" PRIu64
                     " were asked for",
                     path, (uint64_t)there.st_size, size);
            close(found);
        }
    }
    if (file >= 0) {
        close(file);
        unlink(beside);
    }
}

static char *name_beside(struct call *call, const char *path)
{
    char *beside = NULL;
    if (asprintf(&beside, "%s.new", path) < 0) {
        fail(call, VMAN_ERROR_FAILED, "the image %s: %s", path, strerror(ENOMEM));
        return NULL;
    }
    return beside;
}

void create_image(struct call *call)
{
    uint64_t size;
    char *path = image_path(call);
    char *beside = path && size_param(call, path, &size) ? name_beside(call, path) : NULL;
    if (beside)
        create_beside(call, path, beside, size);
    free(beside);
    free(path);
}

void inspect_image(struct call *call)
{
    struct stat status;
    char *path = image_path(call);
    int file = path ? open_image(call, path, "read", O_RDONLY, &status) : -1;
    if (file >= 0) {
        text_add(&call->result,
                 "{\"format\": \"raw\", \"virtual_size\": %" PRIu64 ", \"actual_size\": %" PRIu64
                 "}",
                 (uint64_t)status.st_size, (uint64_t)status.st_blocks * STAT_BLOCK);
        close(file);
    }
    free(path);
}

void resize_image(struct call *call)
{
    uint64_t size;
    struct stat status;
    char *path = image_path(call);
    int file = -1;
    if (path && size_param(call, path, &size))
        file = open_image(call, path, "resized", O_WRONLY, &status);
    if (file >= 0) {
        if ((uint64_t)status.st_size > size)
            fail(call, VMAN_ERROR_INVALID,
                 "the image %s has %" PRIu64 " bytes, and %" PRIu64 " are fewer", path,
                 (uint64_t)status.st_size, size);
        else if (ftruncate(file, (off_t)size) != 0 || fsync(file) != 0)
            fail_file(call, path, "resized", errno);
        close(file);
    }
    free(path);
}

void delete_image(struct call *call)
{
    char *path = image_path(call);
    char *beside = path ? name_beside(call, path) : NULL;
    if (beside) {
        /* Left behind by a daemon that was killed while it made the image. */
        unlink(beside);
        if (unlink(path) != 0 && errno != ENOENT)
            fail_file(call, path, "removed", errno);
    }
    free(beside);
    free(path);
}
