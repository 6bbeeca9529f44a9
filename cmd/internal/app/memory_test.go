package app

import (
	"os"
	"strings"
	"testing"
)

func TestProgramRange(t *testing.T) {
	const program = "/usr/bin/bailiwick"
	for line, want := range map[string][2]uintptr{
		"00400000-01515000 r-xp 00000000 fe:00 123                        /usr/bin/bailiwick":           {0x400000, 0x1515000},
		"01515000-02cd7000 r--p 01115000 fe:00 123                        /usr/bin/bailiwick":           {0x1515000, 0x2cd7000},
		"02cd7000-02e46000 rw-p 028d7000 fe:00 123                        /usr/bin/bailiwick":           {},
		"02cd7000-02e46000 -w-p 028d7000 fe:00 123                        /usr/bin/bailiwick":           {},
		"00400000-01515000 r-xp 00000000 fe:00 123                        /usr/bin/bailiwick (deleted)": {},
		"00400000-01515000 r-xp 00000000 fe:00 124                        /usr/bin/other":               {},
		"c000000000-c000400000 rw-p 00000000 00:00 0":                                                   {},
		"01515000-00400000 r-xp 00000000 fe:00 123                        /usr/bin/bailiwick":           {},
		"xyz r-xp 00000000 fe:00 123 /usr/bin/bailiwick":                                                {},
		"": {},
	} {
		from, to, ok := programRange(line, program)
		if ok != (want != [2]uintptr{}) || from != want[0] || to != want[1] {
			t.Errorf("%q: %x-%x, %t", line, from, to, ok)
		}
	}
}

// What is given back is resident no longer, and the program goes on.
func TestReleaseProgram(t *testing.T) {
	resident := func() string {
		b, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(b), "RssFile:")
		line, _, _ := strings.Cut(rest, "\n")
		return line // of fixed width
	}
	before := resident()
	releaseProgram()
	if after := resident(); after >= before {
		t.Errorf("resident of files: %s before, %s after", before, after)
	}
}

// The start is work; after it, and after all that follows, rest begins once.
func TestRestBegins(t *testing.T) {
	var r rest
	allocated := uint64(0)
	for i, step := range []struct {
		bytes uint64
		want  bool
	}{{restBytes, false}, {restBytes - 1, true}, {0, false}, {10, false}, {5 * restBytes, false}, {restBytes, false}, {1, true}, {1, false}} {
		allocated += step.bytes
		if got := r.begins(allocated); got != step.want {
			t.Errorf("step %d: %t", i, got)
		}
	}
}
