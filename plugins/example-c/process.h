/*
 * Machines as processes: starting one that outlives who started it, finding ours in /proc, and
 * ending exactly that one. Nothing here knows of messages, and nothing is kept in memory or in
 * files: a machine is found by its first word, which names its directory.
 */
#ifndef EXAMPLE_PROCESS_H
#define EXAMPLE_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* A UUID's characters, and the zero behind them. */
#define ID_SIZE 37

/* A living machine. The pid alone names nothing: it is used again; the three together name one
   process for ever. */
struct machine {
    char id[ID_SIZE];
    pid_t pid;
    uint64_t start_time;
    char boot_id[ID_SIZE];
    /* As in /proc/PID/stat. */
    char state;
};

enum ending { ENDED, CANCELLED, LIVES_ON };

/* A UUID in lower case with hyphens? Anything else must get into no path. */
bool is_id(const char *text);

/* The functions that return an int return 0 or an errno. `folder` is the real path of the folder
   that holds the machines' directories. */

/* Every living machine below the folder, whoever started it, or those of one id; to be freed. An
   error means that nothing is known. */
int machines_find(const char *folder, const char *id, struct machine **found, size_t *count);

/* Starts a machine in its directory, which must be there. On failure nothing of it runs. */
int machine_start(const char *folder, const char *id, const char *program,
                  struct machine *started);

/* Takes hold of a machine's process, by a descriptor that never comes to mean another one. ESRCH if
   it is gone, or if its pid is another process's now. */
int machine_hold(const char *folder, const struct machine *machine, int *pidfd);

/* Sends a signal to a process that is held; one that has ended already is a success. */
int process_signal(int pidfd, int signal);

/* Waits until a process that is held has ended, something can be read from `cancelled`, or so many
   milliseconds have passed. */
enum ending process_wait(int pidfd, int cancelled, int ms);

/* Can a process be held at all on this host? */
int process_can_be_held(void);

#endif
