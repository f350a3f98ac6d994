/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections to the daemon: sockets and nothing of what is said on them (client.c).
 *
 * A thread takes a connection, owns it for one request and its answer, and puts it back. So a thread that waits for
 * memory keeps nobody else from asking, and no lock is held while waiting.
 */
#ifndef CVG_CONNECTION_H
#define CVG_CONNECTION_H

#include <stdbool.h>
#include <stdint.h>

#include "../include/convgpu_abi.h"

struct connection;

/* Where the daemon is looked for. */
const char *connection_path(void);

/* An idle connection, or null. */
struct connection *connection_take_idle(void);

/* A new one, taken; null with errno if the daemon cannot be reached right now. Does not block. */
struct connection *connection_open(void);

/* The daemon welcomed the process on it: from now on it may be used by connection_send_aside. */
void connection_welcomed(struct connection *connection);

/* Puts it back. */
void connection_put(struct connection *connection);

/* Closes it: the daemon went away, or its answer will come too late. */
void connection_drop(struct connection *connection);

bool connection_send(struct connection *connection, const struct cvg_message *message);

/*
 * Waits for a message until the deadline. A descriptor that came along is stored in *descriptor (else -1) and belongs
 * to the caller; with a null pointer it is closed. False: the connection is of no more use.
 */
bool connection_receive(struct connection *connection, struct cvg_message *message, int *descriptor,
                        uint64_t deadline_ns);

/*
 * Sends on any welcomed connection, also one whose owner waits: messages are never torn, and this one has no answer.
 * Does not block. False if there is no connection or it does not take the message.
 */
bool connection_send_aside(const struct cvg_message *message);

/* In the child of a fork: closes the descriptors inherited from the parent. */
void connection_forget_all(void);

#endif
