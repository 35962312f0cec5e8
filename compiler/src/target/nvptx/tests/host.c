/* A stand-in for a GPU: a block's threads are threads of this process, blocks run one after another. */
#include <pthread.h>

char shared_memory[1 << 18] __attribute__((aligned(64)));

static pthread_barrier_t barrier;
static __thread unsigned thread_index, block_index;

unsigned host_thread(void) { return thread_index; }
unsigned host_block(void) { return block_index; }
void host_barrier(int id) { (void)id; pthread_barrier_wait(&barrier); }

#define ARGS 32
typedef long long word;
typedef void (*kernel)(word, word, word, word, word, word, word, word, word, word, word, word, word, word, word, word,
                       word, word, word, word, word, word, word, word, word, word, word, word, word, word, word, word);

struct work { kernel run; const word *a; unsigned thread, blocks; };

static void *run(void *p) {
    struct work *w = p;
    const word *a = w->a;
    thread_index = w->thread;
    for (block_index = 0; block_index < w->blocks; block_index++) {
        w->run(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15],
               a[16], a[17], a[18], a[19], a[20], a[21], a[22], a[23], a[24], a[25], a[26], a[27], a[28], a[29], a[30],
               a[31]);
        pthread_barrier_wait(&barrier);
    }
    return 0;
}

/* `a` has ARGS words; the kernel takes as many as it has parameters. */
int host_launch(kernel k, const word *a, unsigned threads, unsigned blocks) {
    static pthread_t id[1024];
    static struct work all[1024];
    if (threads > 1024 || pthread_barrier_init(&barrier, 0, threads)) return 1;
    for (unsigned t = 0; t < threads; t++) {
        all[t] = (struct work){k, a, t, blocks};
        if (pthread_create(&id[t], 0, run, &all[t])) return 2;
    }
    for (unsigned t = 0; t < threads; t++) pthread_join(id[t], 0);
    pthread_barrier_destroy(&barrier);
    return 0;
}
