/*
 * See process.h. A machine's process is known by four things that are read from one directory of
 * /proc, held open: that it lives, that it is this user's, its first word, its start time.
 */
#define _GNU_SOURCE
#include "process.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* The first word of a machine's command line is this, the folder, a slash and the id. */
#define TAG "vman-example-c:"
#define TAG_SIZE (sizeof TAG + PATH_MAX + ID_SIZE)

/* A program that was executed may not be seen in /proc at once: its command line is set last. */
#define SHOWN_WITHIN_MS 5000

bool is_id(const char *text)
{
    for (int i = 0; i < ID_SIZE - 1; i++) {
        bool hyphen = i == 8 || i == 13 || i == 18 || i == 23;
        if (hyphen ? text[i] != '-' : !text[i] || !strchr("0123456789abcdef", text[i]))
            return false;
    }
    return text[ID_SIZE - 1] == '\0';
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* As much of a file as there is room for, a zero behind it; -1 on failure. */
static ssize_t read_start(int folder, const char *name, char *into, size_t room)
{
    int file = openat(folder, name, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return -1;
    size_t len = 0;
    ssize_t more = 1;
    while (more > 0 && len < room - 1) {
        do
            more = read(file, into + len, room - 1 - len);
        while (more < 0 && errno == EINTR);
        len += more > 0 ? (size_t)more : 0;
    }
    close(file);
    into[len] = '\0';
    return more < 0 ? -1 : (ssize_t)len;
}

static int read_boot_id(char *boot_id)
{
    ssize_t len = read_start(AT_FDCWD, "/proc/sys/kernel/random/boot_id", boot_id, ID_SIZE);
    return len == ID_SIZE - 1 && is_id(boot_id) ? 0 : EIO;
}

/* The id in the first word of a process of ours; null in any other's. The word is the folder's
   only if nothing follows the id. */
static const char *id_in(const char *word, const char *folder)
{
    size_t len = strlen(folder);
    if (strncmp(word, TAG, sizeof TAG - 1) != 0)
        return NULL;
    word += sizeof TAG - 1;
    if (strncmp(word, folder, len) != 0 || word[len] != '/')
        return NULL;
    return is_id(word + len + 1) ? word + len + 1 : NULL;
}

/* Fields 3 and 22 of /proc/PID/stat. The second one is a name in brackets, and may hold brackets
   and spaces itself. */
static bool read_stat(int process, char *state, uint64_t *start_time)
{
    char stat[1024];
    if (read_start(process, "stat", stat, sizeof stat) < 0)
        return false;
    const char *at = strrchr(stat, ')');
    if (!at || at[1] != ' ')
        return false;
    *state = at[2];
    at += 2;
    for (int field = 3; field < 22; field++) {
        at = strchr(at, ' ');
        if (!at++)
            return false;
    }
    char *end;
    errno = 0;
    *start_time = strtoull(at, &end, 10);
    return errno == 0 && end != at;
}

/* Whether the process of this pid is a machine below the folder, and which. The directory of /proc
   stays that process's, also if another one gets the pid meanwhile. */
static bool machine_look(const char *folder, pid_t pid, struct machine *machine)
{
    char path[32], words[TAG_SIZE];
    snprintf(path, sizeof path, "/proc/%ld", (long)pid);
    int process = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (process < 0)
        return false;
    struct stat owner;
    const char *id = NULL;
    /* Any user may give a process any words. */
    if (fstat(process, &owner) == 0 && owner.st_uid == geteuid() &&
        read_start(process, "cmdline", words, sizeof words) > 0)
        id = id_in(words, folder);
    bool is_machine = id && read_stat(process, &machine->state, &machine->start_time) &&
                      machine->state != 'Z' && machine->state != 'X';
    if (is_machine) {
        memcpy(machine->id, id, ID_SIZE);
        machine->pid = pid;
    }
    close(process);
    return is_machine;
}

/* The next pid of /proc; 0 after the last one, -1 on failure. */
static long next_pid(DIR *proc)
{
    struct dirent *entry;
    errno = 0;
    while ((entry = readdir(proc))) {
        char *end;
        long pid = strtol(entry->d_name, &end, 10);
        if (pid > 0 && pid <= INT_MAX && *end == '\0')
            return pid;
        errno = 0;
    }
    return errno ? -1 : 0;
}

int machines_find(const char *folder, const char *id, struct machine **found, size_t *count)
{
    struct machine seen = {0}, *all = NULL;
    size_t len = 0;
    long pid = -1;
    int error = read_boot_id(seen.boot_id);
    DIR *proc = error ? NULL : opendir("/proc");
    if (!error && !proc)
        error = errno;
    while (!error && (pid = next_pid(proc)) > 0) {
        /* One that cannot be read has ended meanwhile, or is another user's and so not ours. */
        if (!machine_look(folder, (pid_t)pid, &seen) || (id && strcmp(id, seen.id) != 0))
            continue;
        struct machine *grown = realloc(all, (len + 1) * sizeof *all);
        if (!grown) {
            error = ENOMEM;
            break;
        }
        all = grown;
        all[len++] = seen;
    }
    if (!error && pid < 0)
        error = errno;
    if (proc)
        closedir(proc);
    if (error) {
        free(all);
        all = NULL;
        len = 0;
    }
    *found = all;
    *count = len;
    return error;
}

static int open_pidfd(pid_t pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

int process_can_be_held(void)
{
    int self = open_pidfd(getpid());
    if (self < 0)
        return errno;
    close(self);
    return 0;
}

int machine_hold(const char *folder, const struct machine *machine, int *pidfd)
{
    char boot_id[ID_SIZE];
    struct machine seen;
    int error = read_boot_id(boot_id);
    if (error)
        return error;
    if (machine->pid <= 0 || strcmp(boot_id, machine->boot_id) != 0)
        return ESRCH;
    *pidfd = open_pidfd(machine->pid);
    if (*pidfd < 0)
        return errno == EINVAL ? ESRCH : errno;
    /* Held first and verified then: from here on the pid cannot pass to another process unseen. */
    if (machine_look(folder, machine->pid, &seen) && seen.start_time == machine->start_time &&
        strcmp(seen.id, machine->id) == 0)
        return 0;
    close(*pidfd);
    *pidfd = -1;
    return ESRCH;
}

int process_signal(int pidfd, int signal)
{
    if (syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0) == 0 || errno == ESRCH)
        return 0;
    return errno;
}

enum ending process_wait(int pidfd, int cancelled, int ms)
{
    struct pollfd either[] = {{.fd = pidfd, .events = POLLIN}, {.fd = cancelled, .events = POLLIN}};
    int64_t end = now_ms() + ms;
    for (;;) {
        int64_t left = end - now_ms();
        poll(either, 2, left > 0 ? (int)left : 0);
        if (either[0].revents)
            return ENDED;
        if (either[1].revents)
            return CANCELLED;
        if (left <= 0)
            return LIVES_ON;
    }
}

/* ---- Starting -------------------------------------------------------------------------------

   Between fork and exec only what is safe in a signal handler may be called: other threads of the
   daemon may hold any lock. So all that is needed is made before.

   One at a time: of two at the same time each could hold the other's pipes open. */
static pthread_mutex_t starting = PTHREAD_MUTEX_INITIALIZER;

struct start {
    const char *directory;
    const char *program;
    char tag[TAG_SIZE];
    int null;
    /* From the processes that are made to here: a `struct report` each, and the end when the
       program runs. */
    int report[2];
    /* From here to the process in the middle: the end when it may go. */
    int leave[2];
};

struct report {
    int32_t pid;
    int32_t error;
};

static void report(const struct start *start, int error)
{
    struct report one = {(int32_t)getpid(), error};
    /* Less than PIPE_BUF: whole or not at all. Who does not read it has ended. */
    ssize_t written = write(start->report[1], &one, sizeof one);
    (void)written;
}

/* Becomes the machine: in a session of its own, with nothing of the daemon's but its user. */
_Noreturn static void become_machine(const struct start *start)
{
    char *const words[] = {(char *)start->tag, "infinity", NULL}, *const no_environment[] = {NULL};
    sigset_t none;
    report(start, 0);
    setsid();
    for (int signal_number = 1; signal_number < NSIG; signal_number++)
        signal(signal_number, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (int stream = 0; stream < 3; stream++)
        dup2(start->null, stream);
#ifdef SYS_close_range
    /* Closed by exec, with those that are so already; 4 is CLOSE_RANGE_CLOEXEC. */
    syscall(SYS_close_range, 3, ~0U, 4);
#endif
    if (chdir(start->directory) == 0)
        execve(start->program, words, no_environment);
    report(start, errno);
    _exit(1);
}

/* The process in the middle: the machine's parent until it may go. Until then the machine's pid
   stays its own, however soon it ends; after that the machine is nobody's child, so the daemon
   never has to wait for it. */
_Noreturn static void stay_in_the_middle(const struct start *start)
{
    char nothing;
    close(start->leave[1]);
    pid_t pid = fork();
    if (pid == 0)
        become_machine(start);
    if (pid < 0)
        report(start, errno);
    close(start->report[1]);
    while (read(start->leave[0], &nothing, 1) < 0 && errno == EINTR)
        ;
    _exit(0);
}

/* Reads what the machine's process says until it is executed. */
static int read_reports(int from, pid_t *pid)
{
    struct report one;
    int error = ECHILD;
    ssize_t len;
    while ((len = read(from, &one, sizeof one)) != 0) {
        if (len < 0 && errno == EINTR)
            continue;
        if (len != sizeof one)
            return EIO;
        *pid = one.pid;
        error = one.error;
    }
    return error;
}

/* Until it is seen in /proc, which it is not if it ends at once. */
static int wait_until_shown(const char *folder, pid_t pid, struct machine *started)
{
    int pidfd = open_pidfd(pid);
    if (pidfd < 0)
        return errno;
    int error = read_boot_id(started->boot_id);
    int64_t end = now_ms() + SHOWN_WITHIN_MS;
    while (!error && !machine_look(folder, pid, started)) {
        if (process_wait(pidfd, -1, 1) == ENDED)
            error = ECHILD;
        else if (now_ms() > end)
            error = ETIMEDOUT;
    }
    if (error)
        process_signal(pidfd, SIGKILL);
    close(pidfd);
    return error;
}

static int start_and_see(struct start *start, const char *folder, struct machine *started)
{
    pid_t pid = 0, middle = fork();
    if (middle == 0)
        stay_in_the_middle(start);
    int error = middle < 0 ? errno : 0;
    close(start->report[1]);
    close(start->leave[0]);
    start->report[1] = start->leave[0] = -1;
    if (!error)
        error = read_reports(start->report[0], &pid);
    if (!error)
        error = wait_until_shown(folder, pid, started);
    close(start->leave[1]);
    start->leave[1] = -1;
    while (middle > 0 && waitpid(middle, NULL, 0) < 0 && errno == EINTR)
        ;
    return error;
}

int machine_start(const char *folder, const char *id, const char *program,
                  struct machine *started)
{
    char directory[PATH_MAX];
    struct start start = {directory, program, "", -1, {-1, -1}, {-1, -1}};
    int len = snprintf(directory, sizeof directory, "%s/%s", folder, id);
    if (len < 0 || (size_t)len >= sizeof directory)
        return ENAMETOOLONG;
    snprintf(start.tag, sizeof start.tag, TAG "%s", directory);
    pthread_mutex_lock(&starting);
    start.null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int error = 0;
    if (start.null < 0 || pipe2(start.report, O_CLOEXEC) != 0 ||
        pipe2(start.leave, O_CLOEXEC) != 0)
        error = errno;
    else
        error = start_and_see(&start, folder, started);
    int ours[] = {
        start.null, start.report[0], start.report[1], start.leave[0], start.leave[1],
    };
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        if (ours[i] >= 0)
            close(ours[i]);
    pthread_mutex_unlock(&starting);
    return error;
}
