package spelling

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxShown is how much of a long line is shown, in bytes: that around the place.
const maxShown = 160

// Show is a line with its number, and carets under width bytes from column on, which counts bytes
// from 1; without a caret where the column is not in the line. Both lines have no end. Of a line
// that is too long it shows the part around the column.
func Show(line, column, width int, source string) string {
	from := column - 1
	inside := from >= 0 && from <= len(source)
	if !inside {
		from, width = 0, 0
	}
	to := min(from+max(1, width), len(source))
	if len(source) > maxShown {
		cut := max(0, min(from-maxShown/4, len(source)-maxShown))
		for range min(cut, utf8.UTFMax-1) { // what is no UTF-8 may have no beginning for long
			if utf8.RuneStart(source[cut]) {
				break
			}
			cut++
		}
		source, from, to = source[cut:], from-cut, to-cut
		if cut > 0 {
			source, from, to = "..."+source, from+3, to+3
		}
		if end := maxShown; len(source) > end+3 {
			for range utf8.UTFMax - 1 {
				if utf8.RuneStart(source[end]) {
					break
				}
				end--
			}
			source, to = source[:end]+"...", min(to, end)
		}
	}
	number := fmt.Sprintf("%4d", line)
	out := number + " | " + strings.Map(visible, source)
	if !inside {
		return out
	}
	// What stands before the caret is copied as blanks, and tabs as tabs, so that it stays below.
	before := strings.Map(func(r rune) rune {
		if r == '\t' {
			return r
		}
		return ' '
	}, source[:from])
	under := max(1, utf8.RuneCountInString(source[from:max(from, to)]))
	return out + "\n" + strings.Repeat(" ", len(number)) + " | " + before + strings.Repeat("^", under)
}

// visible keeps what a terminal would obey out of what is shown.
func visible(r rune) rune {
	if r != '\t' && (r < ' ' || r >= 0x7f && r < 0xa0) {
		return '?'
	}
	return r
}
