package spelling

import "testing"

func TestNearest(t *testing.T) {
	for word, want := range map[string]string{"spifeid": "spiffe_id", "Zone": "zone", "zoen": "zone", "x": "", "colour": "", "": ""} {
		if got := Nearest(word, []string{"spiffe_id", "zone", "node"}); got != want {
			t.Errorf("nearest %q is %q, want %q", word, got, want)
		}
	}
}
