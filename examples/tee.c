/*
 * tee.c - copies standard input to standard output and to a command, as fast as both take it.
 *
 *     seq 100000 | ./tee 'gzip -9 >numbers.gz' | tail -1
 *
 * Pipes, FIFOs and terminals are transports that go one way. Nothing is read while a receiver has not taken what there is,
 * so the memory stays small whatever the amounts; and if one of them goes, the other still gets everything.
 */
#define AIOLOOP_IMPLEMENTATION
#include "../aioloop.h"

#include <stdio.h>
#include <unistd.h>

typedef struct copier {
    aioloop *loop;
    aioloop_transport *in;
    aioloop_transport *out;
    aioloop_subprocess *command;
    bool out_is_full;
    bool command_is_full;
    int open; /* of the three */
    int status;
} copier;

/* Reads while everybody who is still there can take more. */
static void flow(copier *c) {
    if (c->out_is_full || c->command_is_full)
        aioloop_transport_pause_reading(c->in);
    else
        aioloop_transport_resume_reading(c->in);
}

/* One of the three has gone. */
static void gone(copier *c) {
    aioloop_transport *to_command = aioloop_subprocess_get_pipe_transport(c->command, 0);
    if (aioloop_transport_is_closing(c->out) && aioloop_transport_is_closing(to_command))
        aioloop_transport_close(c->in);
    if (--c->open == 0)
        aioloop_stop(c->loop);
}

/* ---- standard input ---- */

static void in_data(aioloop_transport *transport, void *self, const void *data, size_t size) {
    copier *c = (copier *)self;
    (void)transport;
    if (!aioloop_transport_is_closing(c->out))
        aioloop_transport_write(c->out, data, size);
    if (!aioloop_transport_is_closing(aioloop_subprocess_get_pipe_transport(c->command, 0)))
        aioloop_transport_write(aioloop_subprocess_get_pipe_transport(c->command, 0), data, size);
}

static void in_lost(aioloop_transport *transport, void *self, int error) {
    copier *c = (copier *)self;
    (void)transport;
    if (error < 0)
        fprintf(stderr, "standard input: %s\n", aioloop_strerror(error));
    aioloop_transport_close(c->out); /* what is buffered is sent first */
    aioloop_transport_close(aioloop_subprocess_get_pipe_transport(c->command, 0));
    gone(c);
}

/* ---- standard output ---- */

static void out_pause(aioloop_transport *transport, void *self) {
    (void)transport;
    ((copier *)self)->out_is_full = true;
    flow((copier *)self);
}

static void out_resume(aioloop_transport *transport, void *self) {
    (void)transport;
    ((copier *)self)->out_is_full = false;
    flow((copier *)self);
}

static void out_lost(aioloop_transport *transport, void *self, int error) {
    (void)error;
    out_resume(transport, self);
    gone((copier *)self);
}

/* ---- the command ---- */

static void command_pause(aioloop_subprocess *transport, void *self) {
    (void)transport;
    ((copier *)self)->command_is_full = true;
    flow((copier *)self);
}

static void command_resume(aioloop_subprocess *transport, void *self) {
    (void)transport;
    ((copier *)self)->command_is_full = false;
    flow((copier *)self);
}

static void command_pipe_lost(aioloop_subprocess *transport, void *self, int fd, int error) {
    (void)fd;
    (void)error;
    command_resume(transport, self);
}

static void command_lost(aioloop_subprocess *transport, void *self, int error) {
    copier *c = (copier *)self;
    (void)error;
    aioloop_subprocess_get_returncode(transport, &c->status);
    gone(c);
}

int main(int argc, char **argv) {
    aioloop_protocol in = AIOLOOP_ZERO;
    aioloop_protocol out = AIOLOOP_ZERO;
    aioloop_subprocess_protocol command = AIOLOOP_ZERO;
    aioloop_subprocess_options options = AIOLOOP_ZERO;
    copier c = AIOLOOP_ZERO;
    int64_t rc;
    if (argc != 2) {
        fprintf(stderr, "usage: tee COMMAND\n");
        return 2;
    }
    in.data_received = in_data;
    in.connection_lost = in_lost;
    out.pause_writing = out_pause;
    out.resume_writing = out_resume;
    out.connection_lost = out_lost;
    command.pause_writing = command_pause;
    command.resume_writing = command_resume;
    command.pipe_connection_lost = command_pipe_lost;
    command.connection_lost = command_lost;
    options.std_out = AIOLOOP_STDIO_INHERIT;
    options.std_err = AIOLOOP_STDIO_INHERIT;
    c.open = 3;
    c.loop = aioloop_new_event_loop(NULL);
    if (c.loop == NULL) {
        fprintf(stderr, "%s\n", aioloop_error_message(aioloop_last_error(NULL)));
        return 1;
    }
    rc = aioloop_run_until_complete(c.loop, aioloop_subprocess_shell(c.loop, &command, &c, argv[1], &options), &c.command);
    if (rc >= 0)
        rc = aioloop_run_until_complete(c.loop, aioloop_connect_write_pipe(c.loop, &out, &c, STDOUT_FILENO), &c.out);
    if (rc >= 0)
        rc = aioloop_run_until_complete(c.loop, aioloop_connect_read_pipe(c.loop, &in, &c, STDIN_FILENO), &c.in);
    if (rc >= 0 && c.open > 0)
        rc = aioloop_run_forever(c.loop);
    if (rc < 0)
        fprintf(stderr, "%s\n", aioloop_error_message(aioloop_last_error(c.loop)));
    aioloop_transport_unref(c.in);
    aioloop_transport_unref(c.out);
    aioloop_subprocess_unref(c.command);
    aioloop_free(c.loop);
    return rc < 0 ? 1 : c.status < 0 ? 128 - c.status : c.status;
}
