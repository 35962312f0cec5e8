/* Token numbers by llama.cpp: reads texts apart by a zero byte, writes one line of numbers for each.
 *
 *     cc llama_tokenize.c -I llama.cpp/include -I llama.cpp/ggml/include -L llama.cpp/build/bin -lllama -o llama_tokenize
 *     llama_tokenize model.gguf <texts
 */
#include <llama.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void quiet(enum ggml_log_level level, const char *text, void *data) {
    (void)level, (void)text, (void)data;
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    llama_log_set(quiet, NULL);
    struct llama_model_params params = llama_model_default_params();
    params.vocab_only = true;
    struct llama_model *model = llama_model_load_from_file(argv[1], params);
    if (!model) return 1;
    const struct llama_vocab *vocab = llama_model_get_vocab(model);
    char *text = NULL;
    size_t room = 0;
    ssize_t length;
    while ((length = getdelim(&text, &room, 0, stdin)) >= 0) {
        length -= length > 0 && text[length - 1] == 0;
        int most = (int)length + 8;
        llama_token *tokens = malloc(most * sizeof *tokens);
        int n = llama_tokenize(vocab, text, (int)length, tokens, most, false, true);
        for (int i = 0; i < n; i++) printf(i ? " %d" : "%d", tokens[i]);
        putchar('\n');
        free(tokens);
    }
    free(text);
    llama_model_free(model);
    return 0;
}
