/*
 * Runs PCRE on many texts for many expressions. tests/fuzz/pcre_matrix.py compiles this file and passes
 * the address of pcre_exec(), so no header of PCRE is needed.
 */
#include <stdint.h>

#define NO_MATCH (-1)
#define OFFSETS 300
#define MOST_UNDECIDED 20	/* an expression that reaches the limit this often is given up */

typedef int (*pcre_exec_function)(const void *code, const void *extra, const char *subject, int length,
				  int start, int options, int *offsets, int offsets_size);

/*
 * Stores in FOUND[rule * TEXTS + text] 1 if the expression matches the text, 0 if it does not, and -1 if
 * that is undecided.
 */
void match_matrix(pcre_exec_function exec, const void *const *codes, const void *const *extras,
		  int64_t rules, const char *data, const int64_t *start, const int64_t *end, int64_t texts,
		  int8_t *found)
{
	int offsets[OFFSETS];

	for (int64_t rule = 0; rule < rules; rule++) {
		int undecided = 0;

		for (int64_t text = 0; text < texts; text++) {
			int result = NO_MATCH - 1;

			if (undecided < MOST_UNDECIDED)
				result = exec(codes[rule], extras[rule], data + start[text],
					      (int)(end[text] - start[text]), 0, 0, offsets, OFFSETS);
			undecided += result < NO_MATCH;
			*found++ = result >= 0 ? 1 : result == NO_MATCH ? 0 : -1;
		}
	}
}
