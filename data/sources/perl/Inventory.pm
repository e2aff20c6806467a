package Inventory;
use strict;
use warnings;

sub new {
    my ($class, %args) = @_;
    my $self = { stock => {}, limit => $args{limit} || 10 };
    return bless $self, $class;
}

sub add {
    my ($self, $item, $amount) = @_;
    $self->{stock}{$item} += $amount;
    return $self->{stock}{$item};
}

sub report {
    my $self = shift;
    foreach my $item (sort keys %{ $self->{stock} }) {
        printf "%s %d\n", $item, $self->{stock}{$item};
    }
}

1;
