/*
 * What a verb is given, and how it says what it came to. The verbs themselves are in machines.c and
 * images.c; how an operation gets to them, and its answer back to the host, is in backend.c.
 */
#ifndef EXAMPLE_VERBS_H
#define EXAMPLE_VERBS_H

#include <stdbool.h>

#include "json.h"
#include "vman_backend.h"

/* One operation, as its verb sees it. */
struct call {
    const struct vman_host *host;
    uint64_t instance;
    /* As the host gave it. */
    const char *machines_dir;
    /* What machines run: the setting `program`. */
    const char *program;
    struct json params;
    /* Can be read from once nobody waits for the answer any longer. */
    int cancelled;
    /* The result as JSON; left empty it is null. */
    struct text result;
    /* One of VMAN_ERROR_...; null while nothing has failed. */
    const char *code;
    /* For people, where it failed. */
    struct text message;
};

typedef void verb(struct call *call);

/* Adds the JSON of an error. */
void add_error(struct text *text, const char *code, const char *message);

/* The call has failed. The first failure counts. */
__attribute__((format(printf, 3, 4))) void fail(struct call *call, const char *code,
                                                const char *format, ...);

/* The string of that name among the params, to be freed; null, and the call has failed, where it
   is none. */
char *string_param(struct call *call, const char *name);

/* A line for the host's log. */
__attribute__((format(printf, 3, 4))) void log_line(struct call *call, uint32_t level,
                                                    const char *format, ...);

/* Tells the host that a machine is no more. */
void tell_ended(struct call *call, const char *id, const char *reason);

/* machines.c */
verb probe, launch, reattach, power_button, quit, kill_machine, survey, sight;
/* images.c */
verb create_image, inspect_image, resize_image, delete_image;

#endif
