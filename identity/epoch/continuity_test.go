package epoch

import (
	"math"
	"testing"
)

func TestContinuity(t *testing.T) {
	for _, c := range []struct {
		name     string
		nv, disk uint64
		want     Disk
	}{
		{"first start", 0, 0, Same},
		{"first start, crashed between the writes", 0, 1, Same},
		{"first start on a new TPM", 1, 0, Same},
		{"an empty disk after one start", 2, 0, Restored},
		{"equal", 5, 5, Same},
		{"crashed between the writes", 5, 6, Same},
		{"an older disk", 5, 4, Restored},
		{"an empty disk", 5, 0, Restored},
		{"a TPM that was cleared", 0, 2, Restored},
		{"another TPM", 5, 9, Restored},
		{"end of the counter", math.MaxUint64, 0, Restored},
	} {
		if got := Continuity(c.nv, c.disk); got != c.want {
			t.Errorf("%s: Continuity(%d, %d) = %s, want %s", c.name, c.nv, c.disk, got, c.want)
		}
	}
}

// A machine that starts again and again, and dies at any step of any start,
// never takes its own disk for a restored one; put back an image of any former
// start and it always notices.
func TestContinuityThroughCrashes(t *testing.T) {
	for plan := range 1 << 8 { // four starts, two bits each: where it dies
		var disk uint64
		nv := uint64(1) // as a TPM's new counter reads
		var images []uint64
		start := func(die int) Disk {
			d := Continuity(nv, disk)
			if die == 1 {
				return d
			}
			disk = nv + 1
			if die == 2 {
				return d
			}
			nv++
			return d
		}
		for i := range 4 {
			before := disk
			if start(plan>>(2*i)&3) != Same {
				t.Fatalf("plan %08b, start %d: own disk taken for a restored one", plan, i)
			}
			if nv == disk { // the start finished
				images = append(images, before)
			}
		}
		start(0)
		for _, image := range images {
			if Continuity(nv, image) != Restored {
				t.Fatalf("plan %08b: image of start %d not noticed at %d", plan, image, nv)
			}
		}
	}
}
