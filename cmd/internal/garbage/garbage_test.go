package garbage

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
)

func percent() uint64 {
	s := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// Nothing was collected before main: what packages allocate as they begin is in use.
func TestFromTheStart(t *testing.T) {
	if latest.turn == 0 {
		t.Fatal("nothing was put off when the package began")
	}
}

func TestLater(t *testing.T) {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	resume := Later(50)
	if percent() != startPercent {
		t.Errorf("%d%%", percent())
	}
	resume()
	if percent() != 50 {
		t.Errorf("resumed with %d%%", percent())
	}
	debug.SetGCPercent(70)
	resume()
	if percent() != 70 {
		t.Errorf("resumed twice: %d%%", percent())
	}
	first := Later(55)
	Later(60)
	first()
	if percent() != startPercent {
		t.Errorf("%d%%: the earlier call ended what the later one began", percent())
	}
	runtime.GC()
	for percent() != 60 { // by the collection, until the test's time is over
		runtime.Gosched()
	}
	debug.SetGCPercent(-1)
	Later(100)
	if got := debug.SetGCPercent(-1); got != -1 {
		t.Errorf("switched on, %d%%", got)
	}
}

func TestPercent(t *testing.T) {
	for _, tt := range []struct {
		environment string
		usual, want int
	}{{"", 100, 100}, {"", 300, 300}, {"50", 300, 50}, {"off", 300, -1}, {"many", 100, 100}} {
		t.Setenv("GOGC", tt.environment)
		if got := Percent(tt.usual); got != tt.want {
			t.Errorf("%+v: %d", tt, got)
		}
	}
}
