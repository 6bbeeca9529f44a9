package bounded

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestReadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if _, err := ReadFile(path, 3); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(path, []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := ReadFile(path, 3); err != nil || string(b) != "abc" {
		t.Errorf("got %q, %v", b, err)
	}
	if b, err := ReadFile(path, 2); !errors.Is(err, ErrTooLarge) || b != nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %q, %v", b, err)
	}
}

func TestText(t *testing.T) {
	for _, tt := range []struct {
		in            string
		most          int
		text, excerpt string
	}{
		{"", 0, "", ""},
		{"abc", 3, "abc", "abc"},
		{"abcd", 3, "abc", "abc..."},
		{"ab d", 3, "ab ", "ab..."},
		{"aé", 2, "a", "a..."},
		{"aé", 3, "aé", "aé"},
		{"a\xff\xfeb", 4, "a?b", "a?b"},
		{"\xffé", 1, "?", "?..."},
	} {
		if got := Text(tt.in, tt.most); got != tt.text {
			t.Errorf("Text(%q, %d) = %q, want %q", tt.in, tt.most, got, tt.text)
		}
		if got := Excerpt(tt.in, tt.most); got != tt.excerpt {
			t.Errorf("Excerpt(%q, %d) = %q, want %q", tt.in, tt.most, got, tt.excerpt)
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add("aé\xff", 2)
	f.Fuzz(func(t *testing.T, s string, most int) {
		most &= 1023
		if got := Text(s, most); len(got) > most || !utf8.ValidString(got) {
			t.Errorf("Text(%q, %d) = %q", s, most, got)
		}
	})
}
