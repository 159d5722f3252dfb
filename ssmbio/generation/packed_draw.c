/* One code from the logits of one clip, and its likelihood: kernels/code_draw in C, and there it is explained. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#define CODES 256

typedef struct {
    double temperature, top_p, min_p;
    int64_t top_k;
} sampling;

static void sort(double *x, int n) {
    static const int gaps[] = {57, 23, 10, 4, 1};
    for (int g = 0; g < 5; g++)
        for (int gap = gaps[g], i = gap; i < n; i++) {
            double moved = x[i];
            int j = i;
            for (; j >= gap && x[j - gap] > moved; j -= gap) x[j] = x[j - gap];
            x[j] = moved;
        }
}

/* Counts are whole numbers below 2^53, which doubles hold exactly. */
static int draw(const float *logits, int64_t levels, double uniform, const sampling *s, double *bits) {
    double scores[CODES], counts[CODES], sorted[CODES], sum = 0, most = logits[0];
    int best = 0, code = 0;
    for (int i = 1; i < levels; i++)
        if (logits[i] > most) most = logits[i], best = i;
    for (int i = 0; i < levels; i++) sum += scores[i] = exp(logits[i] - most);
    if (s->temperature == 0) {
        code = best;
    } else {
        if (s->temperature != 1)
            for (int i = 0; i < levels; i++) scores[i] = exp(logits[i] / s->temperature - most / s->temperature);
        for (int i = 0; i < levels; i++) counts[i] = floor(scores[i] * 0x1p44 + 0.5);
        int cut_k = s->top_k && s->top_k < levels;
        if (cut_k || s->top_p < 1) {
            double all = 0, together = 0, least = 0;
            memcpy(sorted, counts, levels * sizeof *sorted);
            sort(sorted, levels);
            double last = cut_k ? sorted[levels - s->top_k] : 0;
            for (int i = 0; i < levels; i++) all += sorted[i] < last ? 0 : sorted[i];
            int out = 0; /* of those that count `least`, the first so many are left out, and all that count less */
            for (int i = 0; i < levels - 1; i++) {
                together += sorted[i] < last ? 0 : sorted[i];
                if (sorted[i] >= last && !(s->top_p < 1 && together <= (1 - s->top_p) * all)) break;
                out = sorted[i] == least ? out + 1 : 1;
                least = sorted[i];
            }
            for (int i = 0; i < levels; i++)
                if (counts[i] < least || (counts[i] == least && out-- > 0)) counts[i] = 0;
        }
        double all = 0;
        for (int i = 0; i < levels; i++) all += counts[i] = counts[i] < s->min_p * 0x1p44 ? 0 : counts[i];
        double at = floor(uniform * all), before = 0;
        at = at < all - 1 ? at : all - 1;
        for (; code < levels - 1; code++) {
            before += counts[code];
            if (before > at) break;
        }
    }
    *bits = (log(sum) - (logits[code] - most)) * 1.44269504088896340736;
    return code;
}
