/* Asks grpc.health.v1.Health/Check over plaintext HTTP/2 and exits 0 if the answer is SERVING, else 1.
 *
 *   health_probe HOST PORT
 *
 * For a container's HEALTHCHECK, which runs every few seconds: starting a Python with grpc each time would cost more
 * CPU than an idle server does. This knows just as much HTTP/2 as one call takes: it writes the request without
 * waiting, and then looks for the one DATA frame that holds the answer. HOST is an IPv4 address.
 */
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { DATA = 0, HEADERS = 1, RST_STREAM = 3, SETTINGS = 4, GOAWAY = 7 };
enum { END_STREAM = 1, END_HEADERS = 4 };
enum { FRAME_HEADER = 9, LARGEST_FRAME = 1 << 14, TIMEOUT_S = 2 };

static const char PREFACE[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

static unsigned char request[512];
static size_t used;

static void put(const void *bytes, size_t count) {
    memcpy(request + used, bytes, count);
    used += count;
}

static void put_frame(unsigned char type, unsigned char flags, unsigned char stream, const void *payload, size_t size) {
    unsigned char header[FRAME_HEADER] = {0, (unsigned char)(size >> 8), (unsigned char)size, type, flags, 0, 0, 0, stream};
    put(header, sizeof header);
    put(payload, size);
}

/* A header as HPACK writes it without index and without Huffman code; both texts are shorter than 127 bytes. */
static size_t literal(unsigned char *out, const char *name, const char *value) {
    size_t name_size = strlen(name), value_size = strlen(value), at = 0;
    out[at++] = 0;
    out[at++] = (unsigned char)name_size;
    memcpy(out + at, name, name_size);
    at += name_size;
    out[at++] = (unsigned char)value_size;
    memcpy(out + at, value, value_size);
    return at + value_size;
}

static void write_request(void) {
    unsigned char headers[256];
    size_t size = 0;
    size += literal(headers + size, ":method", "POST");
    size += literal(headers + size, ":scheme", "http");
    size += literal(headers + size, ":path", "/grpc.health.v1.Health/Check");
    size += literal(headers + size, ":authority", "localhost");
    size += literal(headers + size, "te", "trailers");
    size += literal(headers + size, "content-type", "application/grpc");
    put(PREFACE, sizeof PREFACE - 1);
    put_frame(SETTINGS, 0, 0, "", 0);
    put_frame(HEADERS, END_HEADERS, 1, headers, size);
    put_frame(DATA, END_STREAM, 1, "\0\0\0\0", 5); /* an empty HealthCheckRequest: the overall health */
}

static int read_all(int fd, unsigned char *into, size_t count) {
    while (count > 0) {
        ssize_t got = read(fd, into, count);
        if (got <= 0) return -1;
        into += got;
        count -= (size_t)got;
    }
    return 0;
}

static int fail(const char *why) {
    printf("%s\n", why); /* docker inspect shows it */
    return 1;
}

static int answer(int fd) {
    static unsigned char payload[LARGEST_FRAME];
    unsigned char header[FRAME_HEADER];
    while (read_all(fd, header, sizeof header) == 0) {
        size_t size = (size_t)header[0] << 16 | (size_t)header[1] << 8 | header[2];
        if (size > sizeof payload || read_all(fd, payload, size) != 0) break;
        if (header[3] == GOAWAY || header[3] == RST_STREAM) return fail("the server refused the call");
        if (header[3] == DATA) {
            /* gRPC's prefix of five bytes, then HealthCheckResponse.status (field 1): 1 is SERVING. */
            if (size == 7 && payload[5] == 0x08 && payload[6] == 1) return 0;
            return fail("NOT_SERVING");
        }
        if (header[3] == HEADERS && header[4] & END_STREAM) return fail("the server answered with an error");
    }
    return fail("no answer in time");
}

int main(int argc, char **argv) {
    if (argc != 3) return fail("usage: health_probe HOST PORT");
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2]))};
    if (inet_pton(AF_INET, argv[1], &address.sin_addr) != 1) return fail("HOST is not an IPv4 address");
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct timeval timeout = {.tv_sec = TIMEOUT_S};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) return fail("nothing listens there");
    write_request();
    if (write(fd, request, used) != (ssize_t)used) return fail("the connection broke");
    return answer(fd);
}
