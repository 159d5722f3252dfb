/* The decoding loop of a packed model on one processor: a list of operations, run for position after position.

   Every clip has an arena of floats with its states and its scratch; operations name places in it, and places in the
   weights, which all clips share. Vectors are filled up with zeros to whole lanes. A clip is computed by itself, in an
   order that nothing else decides, so its codes do not depend on how many there are.

   packed_model.py lays out weights and states as the operations here read them. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "packed_draw.c"

#define LANES 16
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));

typedef struct { /* int64 each, in the order of packed_program.py's OP */
    int64_t kind, every, in, out, n, m, weights, state, pool;
} op;

enum { /* packed_program.py's KINDS */
    EMBED, LAYER_NORM, RMS_NORM, LINEAR, GELU, GLU, ADD, COPY, GATHER, PENDING,
    DIAGONAL, LOW_RANK, CONVOLUTION, SELECTIVE, DRAW
};

static inline vec load(const float *p) { vec v; memcpy(&v, p, sizeof v); return v; }
static inline void store(float *p, vec v) { memcpy(p, &v, sizeof v); }
static inline vec all(float x) { return (vec){0} + x; }
static inline vec choose(ints mask, vec a, vec b) { return (vec)((mask & (ints)a) | (~mask & (ints)b)); }

static inline float total(vec v) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
}

static inline vec exponential(vec x) {
    x = choose(x > 88.0f, all(88.0f), choose(x < -87.0f, all(-87.0f), x));
    vec shifted = x * 1.44269504088896341f + 12582912.0f; /* 1.5 * 2^23: the fraction is rounded away */
    vec k = shifted - 12582912.0f;
    vec r = (x - k * 0.693359375f) - k * -2.12194440e-4f; /* ln 2 in two parts */
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    ints scale = (__builtin_convertvector(k, ints) + 127) << 23;
    return p * (vec)scale;
}

static inline vec sigmoid(vec x) { return 1.0f / (1.0f + exponential(-x)); }

/* x/2 (1 + erf(x/sqrt 2)), erf by Abramowitz and Stegun 7.1.26, to 1.5e-7. */
static inline vec gelu(vec x) {
    vec z = x * 0.70710678118654752f;
    vec size = choose(z < 0.0f, -z, z);
    vec t = 1.0f / (1.0f + 0.3275911f * size);
    vec p = t * 1.061405429f - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    vec tail = p * t * exponential(-size * size);
    return 0.5f * x * choose(z < 0.0f, tail, 2.0f - tail);
}

/* weights: lanes in use (1 or 0), gain, bias. m: the bits of a float, epsilon. */
static void norm(const op *o, const float *w, float *a, int centred) {
    int64_t padded = (o->n + LANES - 1) / LANES * LANES;
    const float *x = a + o->in, *used = w + o->weights, *gain = used + padded, *bias = gain + padded;
    float epsilon, mean = 0;
    int32_t bits = (int32_t)o->m;
    memcpy(&epsilon, &bits, 4);
    vec sum = all(0);
    if (centred) {
        for (int64_t i = 0; i < padded; i += LANES) sum += load(x + i);
        mean = total(sum) / o->n;
    }
    sum = all(0);
    for (int64_t i = 0; i < padded; i += LANES) {
        vec d = (load(x + i) - mean) * load(used + i);
        sum += d * d;
    }
    float scale = 1 / sqrtf(total(sum) / o->n + epsilon);
    for (int64_t i = 0; i < padded; i += LANES)
        store(a + o->out + i, (load(x + i) - mean) * scale * load(gain + i) + load(bias + i));
}

/* out (n) = bias + matrix (n, m) in. weights: the matrix by columns, then the bias. n is whole lanes. */
#define COLUMNS(V)                                                                                                     \
    for (; i + V * LANES <= o->n; i += V * LANES) {                                                                    \
        vec even[V], odd[V];                                                                                           \
        for (int j = 0; j < V; j++) even[j] = load(bias + i + j * LANES), odd[j] = all(0);                             \
        const float *column = matrix + i;                                                                              \
        int64_t k = 0;                                                                                                 \
        for (; k + 2 <= o->m; k += 2, column += 2 * o->n)                                                              \
            for (int j = 0; j < V; j++) {                                                                              \
                even[j] += load(column + j * LANES) * x[k];                                                            \
                odd[j] += load(column + o->n + j * LANES) * x[k + 1];                                                  \
            }                                                                                                          \
        if (k < o->m)                                                                                                  \
            for (int j = 0; j < V; j++) even[j] += load(column + j * LANES) * x[k];                                    \
        for (int j = 0; j < V; j++) store(y + i + j * LANES, even[j] + odd[j]);                                        \
    }

static void linear(const op *o, const float *w, float *a) {
    const float *matrix = w + o->weights, *bias = matrix + o->n * o->m, *x = a + o->in;
    float *y = a + o->out;
    int64_t i = 0;
    COLUMNS(8)
    COLUMNS(4)
    COLUMNS(2)
    COLUMNS(1)
}

/* h = a h + b u, y = 2 Re c h + D u for n channels, m states each.
   weights: for each lane of channels D, then for each state a, b, 2c, each real then imaginary. state: the same way. */
static void diagonal(const op *o, const float *w, float *a) {
    const float *p = w + o->weights;
    float *h = a + o->state;
    for (int64_t i = 0; i < o->n; i += LANES) {
        vec u = load(a + o->in + i), y = load(p) * u, z = all(0);
        p += LANES;
        for (int64_t k = 0; k < o->m; k++, p += 6 * LANES, h += 2 * LANES) {
            vec re = load(h), im = load(h + LANES), ar = load(p), ai = load(p + LANES);
            vec new_re = ar * re - ai * im + load(p + 2 * LANES) * u;
            vec new_im = ar * im + ai * re + load(p + 3 * LANES) * u;
            store(h, new_re), store(h + LANES, new_im);
            y += load(p + 4 * LANES) * new_re;
            z -= load(p + 5 * LANES) * new_im;
        }
        store(a + o->out + i, y + z);
    }
}

/* x = 2 (G v - sum_r left_r 2 Re right_r v) - x with v = x + half u; y = 2 Re C x + D u. pool: the rank, at most 2.
   weights: for each lane of channels D, then for each state half, right_r, G, left_r and 2C. */
static void low_rank(const op *o, const float *w, float *a) {
    int64_t rank = o->pool, wide = (6 + 4 * rank) * LANES;
    const float *p = w + o->weights;
    float *x = a + o->state;
    for (int64_t i = 0; i < o->n; i += LANES, p += o->m * wide, x += 2 * o->m * LANES) {
        vec u = load(a + o->in + i), y = load(p) * u, inner[2] = {all(0), all(0)};
        p += LANES;
        for (int64_t k = 0; k < o->m; k++) {
            const float *q = p + k * wide;
            vec re = load(x + 2 * k * LANES) + load(q) * u, im = load(x + (2 * k + 1) * LANES) + load(q + LANES) * u;
            for (int64_t r = 0; r < rank; r++)
                inner[r] += load(q + (2 + 2 * r) * LANES) * re - load(q + (3 + 2 * r) * LANES) * im;
        }
        for (int64_t k = 0; k < o->m; k++) {
            const float *q = p + k * wide, *G = q + (2 + 2 * rank) * LANES, *left = G + 2 * LANES;
            float *h = x + 2 * k * LANES;
            vec old_re = load(h), old_im = load(h + LANES);
            vec re = old_re + load(q) * u, im = old_im + load(q + LANES) * u;
            vec new_re = load(G) * re - load(G + LANES) * im, new_im = load(G) * im + load(G + LANES) * re;
            for (int64_t r = 0; r < rank; r++) {
                new_re -= load(left + 2 * r * LANES) * (2.0f * inner[r]);
                new_im -= load(left + (2 * r + 1) * LANES) * (2.0f * inner[r]);
            }
            new_re = 2.0f * new_re - old_re, new_im = 2.0f * new_im - old_im;
            store(h, new_re), store(h + LANES, new_im);
            const float *C = left + 2 * rank * LANES;
            y += load(C) * new_re - load(C + LANES) * new_im;
        }
        store(a + o->out + i, y);
    }
}

/* silu(bias + sum_k weight_k x_k) over the last m inputs of n channels. weights: bias, weight_0 ... weight_{m-1}. */
static void convolution(const op *o, const float *w, float *a) {
    for (int64_t i = 0; i < o->n; i += LANES) {
        const float *bias = w + o->weights + i, *weight = bias + o->n;
        float *past = a + o->state + i;
        vec now = load(a + o->in + i), y = load(bias);
        for (int64_t k = 0; k + 1 < o->m; k++) {
            vec x = load(past + k * o->n);
            if (k) store(past + (k - 1) * o->n, x);
            y += load(weight + k * o->n) * x;
        }
        store(past + (o->m - 2) * o->n, now);
        y += load(weight + (o->m - 1) * o->n) * now;
        store(a + o->out + i, y * sigmoid(y));
    }
}

/* The selective scan's step and gate for n channels, m states.
   in: u, z, delta (n each), B, C (m each). weights: for each lane of channels delta's bias, D, A_0 ... A_{m-1}. */
static void selective(const op *o, const float *w, float *a) {
    const float *p = w + o->weights, *u = a + o->in, *z = u + o->n, *delta = z + o->n, *B = delta + o->n, *C = B + o->m;
    float *h = a + o->state;
    for (int64_t i = 0; i < o->n; i += LANES, p += (2 + o->m) * LANES, h += o->m * LANES) {
        vec dt = load(delta + i) + load(p), x = load(u + i), gate = load(z + i);
        for (int j = 0; j < LANES; j++) dt[j] = dt[j] > 20.0f ? dt[j] : log1pf(expf(dt[j]));
        vec y = load(p + LANES) * x, drive = dt * x;
        for (int64_t k = 0; k < o->m; k++) {
            vec state = exponential(dt * load(p + (2 + k) * LANES)) * load(h + k * LANES) + drive * B[k];
            store(h + k * LANES, state);
            y += state * C[k];
        }
        store(a + o->out + i, y * gate * sigmoid(gate));
    }
}

/* codes (clips, count) and bits (clips, count) are written; previous (clips) is the code before, and is kept up. */
void ssmbio_decode(const op *ops, int64_t n_ops, const float *w, float *arenas, int64_t size, int64_t clips,
                   int64_t position, int64_t count, int64_t levels, const sampling *s, int64_t *previous,
                   const double *uniforms, uint8_t *codes, double *bits) {
    for (int64_t t = position; t < position + count; t++)
        for (const op *o = ops; o < ops + n_ops; o++) {
            if ((t + 1) % o->every) continue;
            int64_t place = t / o->every % (o->pool ? o->pool : 1);
            for (int64_t clip = 0; clip < clips; clip++) {
                float *a = arenas + clip * size, *in = a + o->in, *out = a + o->out;
                int64_t at = clip * count + t - position;
                switch (o->kind) {
                case EMBED: memcpy(out, w + o->weights + previous[clip] * o->n, 4 * o->n); break;
                case LAYER_NORM: norm(o, w, a, 1); break;
                case RMS_NORM: norm(o, w, a, 0); break;
                case LINEAR: linear(o, w, a); break;
                case GELU: for (int64_t i = 0; i < o->n; i += LANES) store(out + i, gelu(load(in + i))); break;
                case GLU:
                    for (int64_t i = 0; i < o->n; i += LANES)
                        store(out + i, load(in + i) * sigmoid(load(in + o->n + i)));
                    break;
                case ADD: for (int64_t i = 0; i < o->n; i += LANES) store(out + i, load(out + i) + load(in + i)); break;
                case COPY: memcpy(out, in, 4 * o->n); break;
                case GATHER: memcpy(a + o->state + place * o->n, in, 4 * o->n); break;
                case PENDING:
                    for (int64_t i = 0; i < o->n; i += LANES)
                        store(out + i, load(in + i) + load(a + o->state + place * o->n + i));
                    break;
                case DIAGONAL: diagonal(o, w, a); break;
                case LOW_RANK: low_rank(o, w, a); break;
                case CONVOLUTION: convolution(o, w, a); break;
                case SELECTIVE: selective(o, w, a); break;
                case DRAW: codes[at] = previous[clip] = draw(in, levels, uniforms[at], s, bits + at); break;
                }
            }
        }
}
