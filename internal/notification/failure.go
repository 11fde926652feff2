package notification

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"yunfan.io/yunfan/internal/outbound"
)

// failure is why an attempt did not deliver, and what that means for the next.
type failure struct {
	error

	// permanent: trying again is of no use.
	permanent bool
	// sick: it is the target that does not work, not this message. All that wait for it rest.
	sick bool
	// gone: the other side wants nothing more, ever.
	gone bool
	// after is how long the target asks to be left alone.
	after time.Duration
}

// Unwrap gives the error itself.
func (f *failure) Unwrap() error { return f.error }

// permanent is an error after which nothing more is tried.
func permanent(format string, args ...any) error {
	return &failure{error: fmt.Errorf(format, args...), permanent: true}
}

// sick is an error of the target as a whole.
func sick(format string, args ...any) error {
	return &failure{error: fmt.Errorf(format, args...), sick: true}
}

// failureOf reads an error; one that nobody has judged is the target's.
func failureOf(err error) *failure {
	if f, ok := errors.AsType[*failure](err); ok {
		return &failure{error: err, permanent: f.permanent, sick: f.sick, gone: f.gone, after: f.after}
	}
	return &failure{error: err, sick: true}
}

func isGone(err error) bool { return err != nil && failureOf(err).gone }

// reached judges an error of a connection: an address that may not be reached stays so.
func reached(err error) error {
	if outbound.IsRefused(err) {
		return &failure{error: err, permanent: true}
	}
	return &failure{error: err, sick: true}
}

// scrubbed takes secrets out of an error: the other side may have told what it was shown.
func scrubbed(err error, secrets ...string) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	for _, secret := range secrets {
		const shortest = 4
		if len(secret) >= shortest {
			text = strings.ReplaceAll(text, secret, "***")
		}
	}
	text = oneLine(text)
	if text == err.Error() {
		return err
	}
	f := *failureOf(err)
	f.error = errors.New(text)
	return &f
}
