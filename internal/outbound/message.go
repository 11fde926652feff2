package outbound

import (
	"context"

	"yunfan.io/yunfan/api/v1alpha1"
)

// Message is something that people are told. It says what happened and to whom it matters; in which language and over
// which channel they hear of it is the business of whoever sends it.
type Message struct {
	// Key names the message: two with the same key are one, however often it is sent.
	Key string
	// Tenant that it is about; empty if it is about the platform.
	Tenant string
	// Topic by whose templates the text is made.
	Topic string
	// To are those who are told. Somebody who is meant twice is told once.
	To []Recipient
	// Data that the topic's templates are filled with. Never secrets.
	Data map[string]string
}

// Recipient is one person, some people or a receiver. Exactly one field is set.
type Recipient struct {
	// User is the name of a User object, without any prefix.
	User string
	// Role means everybody who has that role in the message's tenant.
	Role v1alpha1.Role
	// PlatformAdministrators means all of them.
	PlatformAdministrators bool
	// Receiver is the name of a NotificationReceiver of the message's tenant.
	Receiver string
}

// Send hands a message over. It returns as soon as the message will be sent for certain, not when it has been. Sending
// one with a key that was handed over before does nothing and is no error.
type Send func(ctx context.Context, message Message) error

// Topic is one kind of message. A capability has its topics as plain data, and the assembly gathers them.
type Topic struct {
	// Name of the topic: the capability and what happened, as in workflow.approval-wanted.
	Name string
	// Title and Text are templates (text/template over the message's Data) by language: "zh" and "en", both of them.
	Title, Text map[string]string
}
