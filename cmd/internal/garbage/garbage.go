// Package garbage puts the first garbage collection off until there is something to
// collect. The heap of a start is small and grows fast, from before main on: the tables
// that packages make of themselves alone fill Go's first 4 MiB, and a sixth of the
// processor time of a start went into collecting what is all in use.
//
// Whoever imports it collects nothing up to 64 MiB. From the first collection on, or once
// the function that Later returned was called, all is as usual: as GOGC says, if it says
// anything. It changes nothing where GOGC switches collection off.
package garbage

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
)

// startPercent is GOGC until then.
const startPercent = 1600

// Packages are initialised in the order of their paths, and this one needs little: so it
// comes before those that allocate much.
func init() { Later(Percent(100)) }

// Later puts the next collection off, as at the start of the process; percent is GOGC
// afterwards, negative for off.
func Later(percent int) (resume func()) {
	if before := debug.SetGCPercent(startPercent); before < 0 { // switched off
		percent = before
	}
	latest.Lock()
	latest.turn++
	turn := latest.turn
	latest.Unlock()
	resume = func() {
		latest.Lock()
		defer latest.Unlock()
		if latest.turn == turn {
			latest.turn++
			debug.SetGCPercent(percent)
		}
	}
	if percent < 0 {
		resume()
	}
	runtime.AddCleanup(new([64]byte), func(resume func()) { resume() }, resume)
	return resume
}

// latest is which call of Later is in force: each may be resumed once, and not after
// another one.
var latest struct {
	sync.Mutex
	turn int
}

// Percent is what GOGC says in the environment, or else what is usual.
func Percent(usual int) int {
	switch n, err := strconv.Atoi(os.Getenv("GOGC")); {
	case err == nil:
		return n
	case os.Getenv("GOGC") == "off":
		return -1
	}
	return usual
}
