#include "tests/unit/slow.h"

#include <criterion/criterion.h>
#include <criterion/hooks.h>
#include <stdlib.h>

/* 1 without the variable or with something that is no number. */
static double factor(void)
{
	const char *s = getenv("ORKESTR_TEST_SLOW");
	double f = s ? strtod(s, NULL) : 1;

	return f > 1 && f < 1000 ? f : 1;
}

uint64_t slow_ms(uint64_t ms)
{
	return (uint64_t)((double)ms * factor());
}

/* The process that starts the tests ends those that take too long. */
ReportHook(PRE_ALL)(struct criterion_test_set *set)
{
	FOREACH_SET(struct criterion_suite_set * suite, set->suites)
	{
		if (suite->suite.data)
			suite->suite.data->timeout *= factor();
		if (!suite->tests)
			continue;
		FOREACH_SET(struct criterion_test * test, suite->tests)
		test->data->timeout *= factor();
	}
}
