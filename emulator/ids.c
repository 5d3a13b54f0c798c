#include "emulator/ids.h"

#include <string.h>

#include "emulator/base/clock.h"
#include "emulator/fault.h"

static struct {
	bool on;
	uint64_t dice;
	int64_t n;
} seeded;

void ids_seed(uint64_t seed)
{
	seeded.on = true;
	seeded.dice = seed;
	seeded.n = 0;
}

void ids_sandbox(int64_t *ret_created_ms, char ret[static TEXT_ULID_SIZE])
{
	unsigned char rnd[TEXT_ULID_RANDOM];

	if (!seeded.on) {
		*ret_created_ms = clock_now_ms();
		text_ulid(*ret_created_ms, ret);
		return;
	}
	*ret_created_ms = IDS_EPOCH_MS + 1000 * ++seeded.n;
	for (size_t i = 0; i < sizeof(rnd); i++)
		rnd[i] = (unsigned char)(fault_dice(&seeded.dice) * 256);
	text_ulid_of(*ret_created_ms, rnd, ret);
}
