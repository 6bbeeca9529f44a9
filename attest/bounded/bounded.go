// Package bounded takes files and texts of others up to a bound, so that nobody fills memory, a log
// or a leaf with them.
package bounded

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"
)

// ErrTooLarge means that a file has more bytes than it may. The message names it and the bound; give
// a smaller one.
var ErrTooLarge = errors.New("the file is too large")

// ReadFile reads a file of at most so many bytes. Errors wrap ErrTooLarge or are the file system's.
func ReadFile(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		return nil, fmt.Errorf("%w: %s has more than %d bytes", ErrTooLarge, path, most)
	}
	return b, err
}

// Text is a text of at most so many bytes and valid UTF-8: what is beyond is cut off, and what is no
// UTF-8 is shown as question marks, one for each run of such bytes.
func Text(s string, most int) string {
	if s = strings.ToValidUTF8(s, "?"); len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most]
}

// Excerpt is Text for people: they see by its end that something was cut off, for which there are
// three bytes more.
func Excerpt(s string, most int) string {
	short := Text(s, most)
	if len(s) <= most {
		return short
	}
	return strings.TrimSpace(short) + "..."
}
